#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/files/file_io.h"
#include "core/files/little_endian.h"
#include "core/files/zip.h"
#include "isthmus/error.h"
#include "isthmus/tensor_file.h"

// A .npz file is a zip archive of .npy files. Each has a magic number, the version, the length of
// the header, the header as a Python dictionary of three literals, then the data.

namespace isthmus {
namespace {

using detail::IoError;

constexpr std::array<std::pair<std::string_view, DType>, 14> kDescriptors{{
    {"|b1", DType::kBool},
    {"|u1", DType::kUInt8},
    {"|i1", DType::kInt8},
    {"<u2", DType::kUInt16},
    {"<i2", DType::kInt16},
    {"<u4", DType::kUInt32},
    {"<i4", DType::kInt32},
    {"<u8", DType::kUInt64},
    {"<i8", DType::kInt64},
    {"<f2", DType::kFloat16},
    {"<f4", DType::kFloat32},
    {"<f8", DType::kFloat64},
    {"<c8", DType::kComplex64},
    {"<c16", DType::kComplex128},
}};

struct Header {
  DType dtype = DType::kFloat32;
  bool fortran = false;
  Shape shape;
};

/// Reads the Python literals that NumPy writes into a header.
class Literals {
 public:
  explicit Literals(std::string_view text) : text_(text) {}

  bool take(char c) {
    skip_space();
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  void require(char c) {
    if (!take(c)) damaged();
  }
  std::string_view quoted() {
    require('\'');
    const std::size_t end = text_.find('\'');
    if (end == std::string_view::npos) damaged();
    const std::string_view value = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return value;
  }
  bool boolean() {
    skip_space();
    for (const auto& [word, value] : {std::pair("True", true), std::pair("False", false)}) {
      if (text_.starts_with(word)) {
        text_.remove_prefix(std::strlen(word));
        return value;
      }
    }
    damaged();
  }
  std::int64_t size() {
    skip_space();
    std::int64_t value = 0;
    const auto result = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (result.ec != std::errc() || value < 0) damaged();
    text_.remove_prefix(static_cast<std::size_t>(result.ptr - text_.data()));
    return value;
  }
  bool at_end() {
    skip_space();
    return text_.empty();
  }
  [[noreturn]] static void damaged() { throw IoError("its .npy header is damaged"); }

 private:
  void skip_space() {
    while (!text_.empty() && (text_.front() == ' ' || text_.front() == '\n'))
      text_.remove_prefix(1);
  }
  std::string_view text_;
};

DType dtype_of_descriptor(std::string_view descriptor) {
  for (const auto& [text, dtype] : kDescriptors) {
    if (text == descriptor) return dtype;
  }
  throw IoError("its dtype '" + std::string(descriptor) +
                "' is none that isthmus carries; save numbers or booleans in little-endian order");
}

Header parse_header(std::string_view text) {
  Literals in(text);
  Header header;
  int seen = 0;
  in.require('{');
  while (!in.take('}')) {
    const std::string_view key = in.quoted();
    in.require(':');
    if (key == "descr") {
      if (in.take('[')) throw IoError("it is a structured array; save plain arrays");
      header.dtype = dtype_of_descriptor(in.quoted());
      seen |= 1;
    } else if (key == "fortran_order") {
      header.fortran = in.boolean();
      seen |= 2;
    } else if (key == "shape") {
      in.require('(');
      header.shape.clear();
      while (!in.take(')')) {
        header.shape.push_back(in.size());
        if (!in.take(',')) {
          in.require(')');
          break;
        }
      }
      seen |= 4;
    } else {
      Literals::damaged();
    }
    if (!in.take(',')) {
      in.require('}');
      break;
    }
  }
  if (seen != 7 || !in.at_end() || header.shape.size() > 64) Literals::damaged();
  return header;
}

// In Fortran order the first index changes fastest. Copies in C order.
void copy_fortran(const std::byte* from, Tensor& to) {
  const Shape& shape = to.shape();
  const std::size_t item = size_of(to.dtype());
  std::vector<std::int64_t> index(shape.size(), 0);
  auto* out = static_cast<std::byte*>(to.data());
  for (std::int64_t i = 0; i < to.numel(); ++i, out += item) {
    std::int64_t offset = 0;
    for (std::size_t d = shape.size(); d-- > 0;) offset = offset * shape[d] + index[d];
    std::memcpy(out, from + static_cast<std::size_t>(offset) * item, item);
    for (std::size_t d = shape.size(); d-- > 0;) {
      if (++index[d] < shape[d]) break;
      index[d] = 0;
    }
  }
}

Tensor parse_npy(std::span<const std::byte> bytes) {
  if (bytes.size() < 12 || std::memcmp(bytes.data(), "\x93NUMPY", 6) != 0) {
    throw IoError("it is no .npy record");
  }
  const auto version = static_cast<unsigned>(bytes[6]);
  if (version < 1 || version > 3) throw IoError("its .npy version is unknown");
  const std::size_t start = version == 1 ? 10 : 12;
  const std::size_t length = version == 1 ? detail::load_le<std::uint16_t>(bytes, 8)
                                          : detail::load_le<std::uint32_t>(bytes, 8);
  if (!detail::within(start, length, bytes.size())) throw IoError("its .npy header is truncated");
  Header header = parse_header({reinterpret_cast<const char*>(bytes.data()) + start, length});
  const auto data = bytes.subspan(start + length);
  std::uint64_t expected = size_of(header.dtype);
  for (const std::int64_t size : header.shape) {
    if (__builtin_mul_overflow(expected, static_cast<std::uint64_t>(size), &expected)) {
      throw IoError("its shape is too large");
    }
  }
  if (expected != data.size()) {
    throw IoError("its data have " + std::to_string(data.size()) + " bytes, but its shape needs " +
                  std::to_string(expected));
  }
  Tensor tensor = Tensor::empty(header.dtype, std::move(header.shape));
  if (header.fortran && tensor.rank() > 1) {
    copy_fortran(data.data(), tensor);
  } else if (!data.empty()) {
    std::memcpy(tensor.data(), data.data(), data.size());
  }
  return tensor;
}

}  // namespace

NamedTensors parse_npz(std::span<const std::byte> bytes, std::string_view label) {
  const auto refuse = [&](const std::string& what, const std::string& where) {
    throw InvalidInput(std::string(label) +
                       ": not a good .npz file: " + (where.empty() ? "" : where + ": ") + what);
  };
  const detail::ZipIndex index = detail::read_zip_index(bytes, {.allow_deflate = true});
  if (!index.faults.empty()) refuse(index.faults.front().what, index.faults.front().where);
  NamedTensors tensors;
  for (const detail::ZipEntry& entry : index.entries) {
    if (!entry.name.ends_with(".npy")) refuse("it is no .npy record", entry.name);
    try {
      tensors.add(entry.name.substr(0, entry.name.size() - 4),
                  parse_npy(detail::unpack(bytes, entry)));
    } catch (const IoError& error) {
      refuse(error.what(), entry.name);
    }
  }
  return tensors;
}

}  // namespace isthmus
