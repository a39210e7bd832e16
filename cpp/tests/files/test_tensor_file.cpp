#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "isthmus/error.h"
#include "isthmus/tensor_file.h"
#include "tests/zip_writer.h"

namespace fs = std::filesystem;
using namespace isthmus;
using isthmus::testing::as_bytes;
using isthmus::testing::ZipRecord;
using isthmus::testing::ZipWriter;

namespace {

struct Folder {
  fs::path path = fs::temp_directory_path() / ("isthmus-tensors-" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string safetensors(const std::string& header, const std::string& data) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>((header.size() >> (8 * i)) & 255);
  return out + header + data;
}

std::string npy(const std::string& header, const std::string& data) {
  std::string out = "\x93NUMPY";
  out += '\1';
  out += '\0';
  out += static_cast<char>(header.size() & 255);
  out += static_cast<char>(header.size() >> 8);
  return out + header + data;
}

std::string npz(const std::string& header, const std::string& data) {
  return ZipWriter::write({{.name = "x.npy", .data = npy(header, data)}});
}

NamedTensors parse_st(const std::string& file) {
  return parse_safetensors(as_bytes(file), "f");
}
NamedTensors parse_np(const std::string& file) {
  return parse_npz(as_bytes(file), "f");
}

// Parses all truncations and many damaged copies. The result must be a value or InvalidInput.
template <typename Parse>
int survive(const std::string& file, const Parse& parse) {
  int refused = 0;
  const auto attempt = [&](const std::string& damaged) {
    // A copy of the exact size, so that a sanitizer sees a read beyond the end.
    const std::vector<char> exact(damaged.begin(), damaged.end());
    try {
      parse(std::as_bytes(std::span(exact)));
    } catch (const InvalidInput&) {
      ++refused;
    }
  };
  for (std::size_t size = 0; size < file.size(); ++size) attempt(file.substr(0, size));
  CHECK(refused == static_cast<int>(file.size()));
  std::mt19937 random(7);
  for (int i = 0; i < 4000; ++i) {
    std::string damaged = file;
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    attempt(damaged);
  }
  return refused;
}

}  // namespace

TEST_CASE("safetensors: written files can be read") {
  Folder folder;
  NamedTensors tensors;
  tensors.add("b", Tensor::copy_of<bool>({true, false, true}, {3}));
  tensors.add("x", Tensor::copy_of<float>({1, 2, 3, 4, 5, 6}, {2, 3}));
  tensors.add("scalar", Tensor::scalar<double>(2.5));
  tensors.add("empty", Tensor::empty(DType::kInt64, {0, 4}));
  tensors.add("0/in/k\"\xc3\xa9", Tensor::copy_of<std::int64_t>({-1}, {1}));
  const fs::path path = folder.path / "t.safetensors";
  write_safetensors(path, tensors);
  const NamedTensors back = read_tensors(path);
  REQUIRE(back.size() == tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const Tensor& other = back.at(name);
    CHECK(other.dtype() == tensor.dtype());
    CHECK(other.shape() == tensor.shape());
    REQUIRE(other.nbytes() == tensor.nbytes());
    if (tensor.nbytes() > 0) CHECK(std::memcmp(other.data(), tensor.data(), tensor.nbytes()) == 0);
  }
  // No temporary file is left, and each tensor begins at a multiple of its element size.
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);
  const std::string file = read(path);
  CHECK(file.find("\"data_offsets\":[0,8]") != std::string::npos);
  CHECK(static_cast<unsigned char>(file[0]) % 8 == 0);
}

TEST_CASE("safetensors: tensors that cannot be written are refused, and no file is left") {
  Folder folder;
  const auto fails = [&](NamedTensors tensors, const char* what) {
    CHECK_THROWS_WITH_AS(write_safetensors(folder.path / "t.safetensors", tensors),
                         doctest::Contains(what), InvalidInput);
    CHECK(fs::is_empty(folder.path));
  };
  const Tensor scalar = Tensor::scalar<float>(1);
  fails({{"x", Tensor()}}, "undefined");
  fails({{"x", scalar}, {"x", scalar}}, "another one has this name");
  fails({{"__metadata__", scalar}}, "reserved");
  fails({{"x", Tensor::empty(DType::kComplex128, {1})}}, "complex128");
  float values[6] = {};
  fails({{"x", Tensor::wrap(values, DType::kFloat32, {2, 3}, nullptr, {}, {1, 2})}}, "contiguous");
  CHECK_THROWS_AS(write_safetensors(folder.path / "none" / "t", {{"x", scalar}}), InvalidInput);
}

TEST_CASE("safetensors: a bad file is refused with its defect") {
  const auto fails = [](const std::string& header, const std::string& data, const char* what) {
    CHECK_THROWS_WITH_AS(parse_st(safetensors(header, data)), doctest::Contains(what),
                         InvalidInput);
  };
  const std::string good = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  CHECK(parse_st(safetensors(good, "abcd")).size() == 1);
  fails(good, "abc", "data_offsets");
  fails(good, "abcde", "belong to no tensor");
  fails(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "abcd", "8 bytes");
  fails(R"({"x":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}})", "abcd", "x.dtype");
  fails(R"({"x":{"dtype":"U8","shape":[-1],"data_offsets":[0,4]}})", "abcd", "x.shape[0]");
  fails(R"({"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}})", "abcd",
        "x.shape");
  fails(R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}})", "abcd", "data_offsets[1]");
  fails(R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
        R"("y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
        "abc", "overlap");
  fails(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
        R"("x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
        "a", "stands twice");
  fails(R"({"x":[]})", "", "object");
  fails("{", "", "JSON");
  std::string huge = safetensors(good, "abcd");
  huge[6] = '\x7f';
  CHECK_THROWS_WITH_AS(parse_st(huge), doctest::Contains("claims"), InvalidInput);
}

TEST_CASE("npz: dtypes, shapes, Fortran order, deflation") {
  const auto header = [](const char* descr, const char* order, const char* shape) {
    return std::string("{'descr': '") + descr + "', 'fortran_order': " + order +
           ", 'shape': " + shape + ", }\n";
  };
  const Tensor scalar = parse_np(npz(header("|u1", "False", "()"), "a")).at("x");
  CHECK(scalar.rank() == 0);
  CHECK(scalar.dtype() == DType::kUInt8);
  const Tensor fortran = parse_np(npz(header("|u1", "True", "(2, 3)"), "adbecf")).at("x");
  CHECK(fortran.shape() == Shape{2, 3});
  CHECK(std::string(static_cast<const char*>(fortran.data()), 6) == "abcdef");
  const std::string record = npy(header("|u1", "False", "(4,)"), "wxyz");
  const std::string packed = ZipWriter::write({{.name = "d.npy",
                                                .data = isthmus::testing::deflated(record),
                                                .method = 8,
                                                .unpacked = record}});
  CHECK(parse_np(packed).at("d").shape() == Shape{4});

  const auto fails = [](const std::string& file, const char* what) {
    CHECK_THROWS_WITH_AS(parse_np(file), doctest::Contains(what), InvalidInput);
  };
  fails(npz(header("<U1", "False", "(1,)"), "aaaa"), "<U1");
  fails(npz(header("|O", "False", "(1,)"), "aaaa"), "|O");
  fails(npz(header(">f4", "False", "(1,)"), "aaaa"), "little-endian");
  fails(npz(header("|u1", "False", "(2,)"), "a"), "needs 2");
  fails(npz(header("|u1", "Maybe", "(1,)"), "a"), "header");
  fails(npz(header("<f8", "False", "(4611686018427387904, 8)"), "a"), "too large");
  fails(npz("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "aaaa"),
        "structured");
  fails(ZipWriter::write({{.name = "x.txt", .data = "a"}}), "x.txt");
  fails(ZipWriter::write({{.name = "x.npy", .data = record, .crc_lie = 1}}), "checksum");
  fails(ZipWriter::write({{.name = "../x.npy", .data = record}}), "\"..\"");
  // A zip bomb claims more than deflate can pack, and is refused before memory is allocated.
  fails(ZipWriter::write(
            {{.name = "x.npy", .data = "abc", .method = 8, .unpacked = std::string(99999, 'a')}}),
        "believable");
}

TEST_CASE("damaged files do not crash the reader") {
  const std::string header =
      R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"I64","shape":[1,2],"data_offsets":[8,24]}})";
  CHECK(survive(safetensors(header, std::string(24, 'a')),
                [](auto bytes) { parse_safetensors(bytes, "f"); }) > 1000);
  const std::string array =
      npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }", "abcdefgh");
  const std::string zip = ZipWriter::write({{.name = "x.npy", .data = array},
                                            {.name = "y.npy",
                                             .data = isthmus::testing::deflated(array),
                                             .method = 8,
                                             .unpacked = array}});
  CHECK(survive(zip, [](auto bytes) { parse_npz(bytes, "f"); }) > 1000);
}

TEST_CASE("read_tensors names the kind of another file") {
  Folder folder;
  const fs::path path = folder.path / "what";
  CHECK_THROWS_WITH_AS(read_tensors(path), doctest::Contains("no such file"), InvalidInput);
  std::ofstream(path) << "hello, world";
  CHECK_THROWS_WITH_AS(read_tensors(path), doctest::Contains("savez"), InvalidInput);
  CHECK_THROWS_WITH_AS(read_tensors(folder.path), doctest::Contains("directory"), InvalidInput);
}
