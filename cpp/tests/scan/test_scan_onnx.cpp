#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "isthmus/scan.h"

using namespace isthmus;

namespace {

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string number(std::uint64_t field, std::uint64_t value) {
  return varint(field << 3) + varint(value);
}

std::string bytes(std::uint64_t field, const std::string& content) {
  return varint(field << 3 | 2) + varint(content.size()) + content;
}

// The messages of onnx.proto, as far as a scan can be fooled by them.
std::string opset(const std::string& domain, std::uint64_t version) {
  return bytes(8, bytes(1, domain) + number(2, version));
}
std::string entry(const std::string& key, const std::string& value) {
  return bytes(13, bytes(1, key) + bytes(2, value));
}
std::string tensor(const std::string& name, const std::string& more = "") {
  return bytes(8, name) + more;
}
std::string node(const std::string& type, const std::string& more = "") {
  return bytes(1, bytes(3, "n") + bytes(4, type) + more);
}
std::string value(const std::string& name) {
  return bytes(1, name);
}
std::string model(const std::string& graph, const std::string& more = "") {
  return number(1, 10) + opset("", 20) + bytes(7, graph) + more;
}

OnnxScan scan(const std::string& file, const std::set<std::string>& files = {},
              const std::set<std::string>& domains = {}) {
  return scan_onnx(std::as_bytes(std::span(file)), files, domains);
}

void refused(const std::string& file, const char* word) {
  const OnnxScan found = scan(file);
  CHECK(found.refused());
  CHECK_MESSAGE(found.describe().find(word) != std::string::npos, found.describe());
}

const std::string kWeights = entry("location", "weights.bin");
const std::string kOutside = entry("location", "../../etc/passwd");

}  // namespace

TEST_CASE("a good model passes, and its facts are reported") {
  const OnnxScan found =
      scan(model(node("MatMul") + node("MatMul") + bytes(5, tensor("w", kWeights)) +
                 bytes(11, value("x")) + bytes(11, value("w")) + bytes(12, value("y"))),
           {"weights.bin"});
  CHECK_FALSE(found.refused());
  CHECK(found.ir_version == 10);
  CHECK(found.opsets == std::map<std::string, std::int64_t>{{"", 20}});
  CHECK(found.operators == std::map<std::string, std::int64_t>{{"MatMul", 2}});
  CHECK(found.inputs == std::vector<std::string>{"x"});
  CHECK(found.outputs == std::vector<std::string>{"y"});
  CHECK(found.external_files == std::set<std::string>{"weights.bin"});
}

TEST_CASE("weights outside of the bundle are refused for every tensor") {
  const std::string bad = tensor("w", kOutside);
  const std::string sparse = bytes(1, bad);
  const auto attribute = [](std::uint64_t field, const std::string& content) {
    return node("Constant", bytes(5, bytes(field, content)));
  };
  const std::string inner = bytes(5, bad);
  refused(model(bytes(5, bad)), "etc/passwd");
  refused(model(bytes(15, sparse)), "etc/passwd");
  refused(model(attribute(5, bad)), "etc/passwd");
  refused(model(attribute(10, bad)), "etc/passwd");
  refused(model(attribute(22, sparse)), "etc/passwd");
  refused(model(attribute(23, bytes(2, bad))), "etc/passwd");
  refused(model(attribute(6, inner)), "etc/passwd");
  refused(model(attribute(11, inner)), "etc/passwd");
  refused(model("", bytes(25, bytes(1, "f") + bytes(7, bytes(5, bytes(5, bad))))), "etc/passwd");
  // Default attributes of a function.
  refused(model("", bytes(25, bytes(1, "f") + bytes(11, bytes(5, bad)))), "etc/passwd");
}

TEST_CASE("the last of several fields counts, as for other readers") {
  const std::string twice = bytes(13, bytes(1, "offset") + bytes(1, "location") +
                                          bytes(2, "weights.bin") + bytes(2, "../outside"));
  CHECK(scan(model(bytes(5, tensor("w", twice))), {"weights.bin"}).refused());
  refused(model(bytes(1, bytes(7, "com.microsoft") + bytes(4, "Gelu") + bytes(4, "PythonOp"))),
          "PythonOp");
  // To others, a text's number with a number's encoding is an unknown field.
  const std::string hidden =
      bytes(13, bytes(1, "location") + number(1, 7) + bytes(2, "../outside") + number(2, 7));
  refused(model(bytes(5, tensor("w", hidden))), "outside");
  // Two graphs are one, merged.
  refused(model(node("Relu")) + bytes(7, bytes(5, tensor("w", kOutside))), "etc/passwd");
}

TEST_CASE("a tag of more than 32 bits, which other readers cut, is refused") {
  const std::string graph = bytes(5, tensor("w", kOutside));
  const std::string long_tag = varint((std::uint64_t{1} << 32) | (7U << 3) | 2);
  refused(number(1, 10) + long_tag + varint(graph.size()) + graph, "no ONNX file");
}

TEST_CASE("operators that carry programs, and unknown domains, are refused") {
  const auto of = [](const std::string& domain, const std::string& type) {
    return model(node(type, bytes(7, domain)));
  };
  CHECK_FALSE(scan(of("com.microsoft", "Gelu")).refused());
  CHECK_FALSE(scan(of("ai.onnx", "Gelu")).refused());
  refused(of("com.microsoft", "EPContext"), "program of its own");
  refused(of("com.microsoft", "PythonOp"), "program of its own");
  refused(of("my.domain", "Own"), "my.domain::Own");
  CHECK_FALSE(scan(of("my.domain", "Own"), {}, {"my.domain"}).refused());
  const std::string function = bytes(25, bytes(1, "Own") + bytes(10, "my.domain"));
  CHECK_FALSE(scan(of("my.domain", "Own") + function).refused());
  CHECK(scan(of("my.domain", "Other") + function).refused());
}

TEST_CASE("other files are refused with the reason") {
  refused("", "ir_version");
  refused("PK\x03\x04", "no ONNX file");
  refused(model("", bytes(20, "")), "training");
  refused(std::string("\x18\0\0\0ORTM", 8) + model(""), "ONNX Runtime's own format");
  std::string deep;
  for (int i = 0; i < 70; ++i) deep = node("If", bytes(5, bytes(6, deep)));
  refused(model(deep), "64 deep");
}

TEST_CASE("damaged files do not crash the scan, and truncated ones do not pass") {
  const std::string whole = model(node("MatMul", bytes(5, bytes(5, tensor("c")))) +
                                  bytes(5, tensor("w")) + bytes(12, value("y")));
  // The file's last field is the graph, so nothing shorter is whole.
  for (std::size_t size = whole.size() - 1; size > 12; --size)
    CHECK(scan(whole.substr(0, size)).refused());
  std::mt19937 random(0);
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = whole;
    for (int k = 0; k < 3; ++k) damaged[random() % damaged.size()] = static_cast<char>(random());
    (void)scan(damaged);
  }
}
