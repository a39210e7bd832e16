#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "core/files/sha256.h"
#include "isthmus/tensor_file.h"

/// Writes a bundle for the fake engine, any part of which a test can change.
namespace isthmus::testing {

/// A new folder, which the destructor removes.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "isthmus-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Returns {"path", "size", "sha256"} of a file of the bundle.
inline nlohmann::json entry(const std::filesystem::path& root, const std::string& path) {
  const std::string text = read_text(root / path);
  return {{"path", path},
          {"size", text.size()},
          {"sha256",
           detail::sha256_hex({reinterpret_cast<const std::byte*>(text.data()), text.size()})}};
}

inline void write_manifest(const std::filesystem::path& root, const nlohmann::json& manifest) {
  write_text(root / "manifest.json", manifest.dump(1));
}

/// Writes a bundle with x: float32[batch, 2] -> y: float32[batch, 2], the method "count" -> n, and
/// a golden at batch 2 (y = 2x). Returns its manifest.
inline nlohmann::json write_bundle(const std::filesystem::path& root, bool stateful = false) {
  using nlohmann::json;
  write_text(root / "artifacts/fake.bin", "fake");
  const auto pair = [](std::initializer_list<float> values) {
    return Tensor::copy_of(values, {2, 2});
  };
  std::filesystem::create_directories(root / "goldens");
  write_safetensors(root / "goldens/batch2.safetensors",
                    {{"0/in/x", pair({1, 2, 3, 4})}, {"0/out/y", pair({2, 4, 6, 8})}});
  const json leaf_x = {{"node", "leaf"}, {"name", "x"}};
  const json tensor = {
      {"kind", "tensor"}, {"dtype", "float32"}, {"shape", {"batch", 2}}, {"optional", false}};
  json x = tensor;
  x["name"] = "x";
  json y = tensor;
  y["name"] = "y";
  const json n = {{"name", "n"},
                  {"kind", "int"},
                  {"dtype", "int64"},
                  {"shape", json::array()},
                  {"optional", false}};
  const json forward = {{"name", "forward"},       {"inputs", {x}},
                        {"outputs", {y}},          {"args", {leaf_x}},
                        {"kwargs", json::array()}, {"returns", {{"node", "leaf"}, {"name", "y"}}}};
  const json count = {{"name", "count"},         {"inputs", json::array()},
                      {"outputs", {n}},          {"args", json::array()},
                      {"kwargs", json::array()}, {"returns", {{"node", "leaf"}, {"name", "n"}}}};
  json artifact = {{"name", "fake-cpu"},
                   {"format", "fake"},
                   {"device", "cpu"},
                   {"devices", {"cpu"}},
                   {"precision", "fp32"},
                   {"trust", "graph"},
                   {"convention", "flat"},
                   {"strategy", "trace"},
                   {"files", {entry(root, "artifacts/fake.bin")}},
                   {"requires", json::object()},
                   {"op_libraries", json::array()},
                   {"operators", json::object()},
                   {"tolerances", {{"y", {{"atol", 1e-6}, {"rtol", 0.0}}}}},
                   {"state", json::array()},
                   {"decisions", json::array()},
                   {"hazards", json::array()}};
  json manifest = {{"format", "isthmus-bundle"},
                   {"format_version", 1},
                   {"name", "fake"},
                   {"created", "2026-01-31T12:00:00Z"},
                   {"producer", {{"isthmus", "0.1.0"}}},
                   {"source", {{"kind", "module"}}},
                   {"stateful", stateful},
                   {"dims", {{"batch", {{"min", 1}, {"max", 8}}}}},
                   {"methods", {forward, count}},
                   {"artifacts", {artifact}},
                   {"goldens",
                    {{{"name", "batch2"},
                      {"file", entry(root, "goldens/batch2.safetensors")},
                      {"dims", {{"batch", 2}}},
                      {"steps", {{{"method", "forward"}}}}}}},
                   {"noise_floor", {{"y", {{"max_abs", 0.0}, {"rms", 0.0}, {"method", "ulp"}}}}},
                   {"warmup", {"batch2"}},
                   {"files", json::array()}};
  write_manifest(root, manifest);
  return manifest;
}

}  // namespace isthmus::testing
