#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "core/files/file_io.h"
#include "core/files/json_reader.h"
#include "core/files/little_endian.h"
#include "core/tensor/dtype_table.h"
#include "isthmus/error.h"
#include "isthmus/tensor_file.h"

// The format: eight bytes with the length of the header, the header as JSON
// {"NAME": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {...}}, then the
// data, which the tensors cover without gaps.

namespace isthmus {
namespace {

constexpr std::size_t kLengthSize = 8;
constexpr std::uint64_t kMaxHeader = 100'000'000;  // the format's own limit

struct Entry {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;
};

const DTypeRow* row_named(std::string_view name) {
  const auto row = std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeRow& candidate) {
    return !name.empty() && candidate.safetensors == name;
  });
  return row == kDTypes.end() ? nullptr : &*row;
}

Entry read_entry(const std::string& name, const detail::JsonReader& member,
                 std::uint64_t data_size) {
  Entry entry;
  entry.name = name;
  const DTypeRow* row = row_named(member.at("dtype").text());
  if (row == nullptr) member.at("dtype").fail("an element type that isthmus carries");
  entry.dtype = row->dtype;
  std::uint64_t bytes = row->size;
  for (const auto& size : member.at("shape").list()) {
    entry.shape.push_back(size.integer(0, INT64_MAX));
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(entry.shape.back()), &bytes)) {
      member.at("shape").fail("a shape whose bytes can be counted");
    }
  }
  const auto offsets = member.at("data_offsets").list();
  if (offsets.size() != 2) member.at("data_offsets").fail("two numbers");
  const auto limit = static_cast<std::int64_t>(data_size);
  entry.begin = static_cast<std::uint64_t>(offsets[0].integer(0, limit));
  entry.end =
      static_cast<std::uint64_t>(offsets[1].integer(static_cast<std::int64_t>(entry.begin), limit));
  if (entry.end - entry.begin != bytes) {
    member.at("data_offsets")
        .fail("a range of " + std::to_string(bytes) + " bytes for this dtype and shape");
  }
  return entry;
}

NamedTensors parse(std::span<const std::byte> bytes) {
  using detail::JsonError;
  if (bytes.size() < kLengthSize) throw JsonError("it is shorter than its eight bytes of length");
  const auto header_size = detail::load_le<std::uint64_t>(bytes, 0);
  if (header_size > kMaxHeader || header_size > bytes.size() - kLengthSize) {
    throw JsonError("it is truncated, or no safetensors file: the header claims " +
                    std::to_string(header_size) + " bytes");
  }
  const auto data = bytes.subspan(kLengthSize + header_size);
  const auto json = detail::parse_json(
      {reinterpret_cast<const char*>(bytes.data()) + kLengthSize, header_size}, 8);
  std::vector<Entry> entries;
  for (const auto& [name, member] : detail::JsonReader(json, "").members()) {
    if (name != "__metadata__") entries.push_back(read_entry(name, member, data.size()));
  }
  // Sorted by offset, which is the order in which they were written.
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  NamedTensors tensors;
  std::uint64_t covered = 0;
  for (Entry& entry : entries) {
    if (entry.begin != covered) {
      throw JsonError(entry.name + ": its data overlap another tensor's or leave a hole");
    }
    covered = entry.end;
    const auto slice = data.subspan(entry.begin, entry.end - entry.begin);
    Tensor tensor = Tensor::empty(entry.dtype, std::move(entry.shape));
    if (!slice.empty()) std::memcpy(tensor.data(), slice.data(), slice.size());
    tensors.add(std::move(entry.name), std::move(tensor));
  }
  if (covered != data.size()) {
    throw JsonError("it is truncated or carries bytes that belong to no tensor");
  }
  return tensors;
}

std::string header_of(const std::vector<const NamedTensors::Item*>& order) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::uint64_t at = 0;
  for (const auto* item : order) {
    const auto& [name, tensor] = *item;
    header[name] = {{"dtype", row_of(tensor.dtype()).safetensors},
                    {"shape", tensor.shape()},
                    {"data_offsets", {at, at + tensor.nbytes()}}};
    at += tensor.nbytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

std::vector<const NamedTensors::Item*> writable_order(const std::string& label,
                                                      const NamedTensors& tensors) {
  std::vector<const NamedTensors::Item*> order;
  for (const auto& item : tensors) {
    const auto& [name, tensor] = item;
    const auto refuse = [&, &bad = name](const std::string& why) {
      throw InvalidInput(label + ": cannot hold the tensor \"" + bad + "\": " + why);
    };
    if (!tensor.defined()) refuse("it is undefined; leave absent values out");
    if (name.empty() || name == "__metadata__") refuse("the name is reserved");
    if (row_of(tensor.dtype()).safetensors.empty()) {
      refuse("safetensors has no " + std::string(isthmus::name(tensor.dtype())));
    }
    if (!tensor.device().is_cpu()) refuse("it is on " + to_string(tensor.device()) + "; copy it");
    if (!tensor.is_contiguous()) refuse("it is not contiguous; call contiguous() first");
    if (std::any_of(order.begin(), order.end(),
                    [&, &same = name](const auto* other) { return other->first == same; })) {
      refuse("another one has this name");
    }
    order.push_back(&item);
  }
  // By decreasing element size, so that each tensor is aligned.
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return size_of(a->second.dtype()) > size_of(b->second.dtype());
  });
  return order;
}

}  // namespace

NamedTensors parse_safetensors(std::span<const std::byte> bytes, std::string_view label) {
  try {
    return parse(bytes);
  } catch (const detail::JsonError& error) {
    throw InvalidInput(std::string(label) + ": not a good safetensors file: " + error.what());
  }
}

void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors) {
  const std::string label = path.string();
  const auto order = writable_order(label, tensors);
  const std::string header = header_of(order);
  std::array<std::byte, kLengthSize> length{};
  for (std::size_t i = 0; i < kLengthSize; ++i)
    length[i] = static_cast<std::byte>(header.size() >> (8 * i));
  std::vector<std::span<const std::byte>> pieces{length, std::as_bytes(std::span(header))};
  for (const auto* item : order)
    pieces.emplace_back(static_cast<const std::byte*>(item->second.data()), item->second.nbytes());
  try {
    detail::write_file(path, pieces);
  } catch (const detail::IoError& error) {
    throw InvalidInput(label + ": cannot be written: " + error.what());
  }
}

}  // namespace isthmus
