#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/error_statistics.h"
#include "isthmus/export.h"
#include "isthmus/options.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// Large files are hashed in chunks as well, which can be compared side by side.
inline constexpr std::uint64_t kChunkBytes = 4 << 20;

/// A file of a bundle: path relative to the root (forward slashes), bytes, lower-case hex SHA-256.
struct FileEntry {
  std::string path;
  std::uint64_t size = 0;
  std::string sha256;
  std::vector<std::string> chunks{};  ///< SHA-256 of each `kChunkBytes` of a larger file, or none
};

/// How an output is judged. Where the golden knows the truth (its values in float64), by `limits`;
/// elsewhere |actual - reference| <= atol + rtol * |reference|, element by element.
struct Tolerance {
  double atol = 0;
  double rtol = 0;
  ErrorLimits limits{};
};

/// How far eager float32 is from eager float64 on the goldens, for one output.
struct NoiseFloor {
  double max_abs = 0;  ///< largest absolute difference
  double rms = 0;      ///< root mean square difference
  std::string method;  ///< "float64", or the documented fall-back "ulp"
};

/// A native library that registers operators, and the namespaces it brings.
struct OpLibrary {
  std::string op_namespace;  ///< "torchvision" for "torchvision::nms"
  std::string library;       ///< file name as seen at export; may be empty
};

/// One executable form of the model.
struct Artifact {
  std::string name;                  ///< unique in the bundle, e.g. "torchscript-cpu-fp32"
  std::string format;                ///< "torchscript", "onnx", "aoti"
  std::string device;                ///< device type it was made on: "cpu" or "cuda"
  std::vector<std::string> devices;  ///< device types on which it may run
  std::string precision;             ///< "fp32", "fp16", "bf16", ...
  std::string trust;                 ///< class it needs: "graph" or "native"
  std::string convention;            ///< "flat" or "structured", see docs/format.md
  std::string strategy;              ///< TorchScript: "trace", "script", "mixed", "adopted"
  /// The first is the one to open; in formats with a file for each method, one for each, in their
  /// order. What follows is data that these refer to by file name, and is mapped.
  std::vector<FileEntry> files;
  std::map<std::string, std::string> requires_versions;  ///< e.g. {"torch": "2.13.0"}
  std::vector<OpLibrary> op_libraries;
  std::map<std::string, std::int64_t> operators;             ///< operator -> count
  std::map<std::string, Tolerance, std::less<>> tolerances;  ///< by output name
  std::vector<std::string> state;  ///< attributes that calls change, e.g. "cell.h"
};

/// One call of a golden: the method and the sizes of its named dimensions.
struct GoldenStep {
  std::string method = "forward";
};

/// A stored probe: a sequence of calls (one for a stateless model) on one shape.
struct Golden {
  std::string name;
  FileEntry file;  ///< safetensors with "STEP/in/NAME", "STEP/out/NAME" and "STEP/error/NAME"
  std::map<std::string, std::int64_t> dims;
  std::vector<GoldenStep> steps;
};

/// The values of one golden call, in memory.
struct GoldenCall {
  std::string method;
  Inputs inputs;
  Outputs outputs;
  /// By output name: how far the golden is from eager in float64, golden minus truth, where that is
  /// known.
  NamedTensors errors{};
};

/// The parsed manifest.json: the contract between export and run. See docs/format.md.
struct Manifest {
  int format_version = 1;
  std::string name;
  std::string created;                          ///< ISO 8601, UTC
  std::map<std::string, std::string> producer;  ///< versions: isthmus, torch, python, ...
  std::map<std::string, std::string> source;    ///< where the model came from
  bool stateful = false;
  std::vector<Signature> methods;  ///< "forward" first when there is one
  std::vector<Artifact> artifacts;
  std::vector<Golden> goldens;
  std::map<std::string, NoiseFloor, std::less<>> noise_floor;  ///< by output name
  std::vector<std::string> warmup;  ///< names of the goldens to warm up on
  std::vector<FileEntry> files;     ///< everything else, e.g. tokenizer files
};

/// Bytes of a file, read or mapped once; everything downstream uses these bytes.
struct FileBytes {
  std::string path;  ///< relative to the bundle's root
  std::shared_ptr<const std::byte[]> data;
  std::size_t size = 0;
  /// Where to use weights in place, at the offsets that they have in `data`: the same memory, or
  /// a mapping for them alone (`Bundle::map_archive`).
  std::shared_ptr<const std::byte[]> weights;
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data.get(), size}; }
};

/// A bundle on disk, opened safely: the manifest is capped, parsed and validated; every path stays
/// beneath the root and passes through no symbolic link; every file that is read is checked for
/// size and SHA-256 first.
class ISTHMUS_API Bundle {
 public:
  /// @throws BundleError saying what `path` is and what to do when it is no good bundle.
  static Bundle open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& root() const noexcept { return root_; }
  [[nodiscard]] const Manifest& manifest() const noexcept { return *manifest_; }

  /// @throws InvalidInput naming the methods there are.
  [[nodiscard]] const Signature& signature(std::string_view method = "forward") const;

  /// Reads and verifies one listed file. @throws BundleError.
  [[nodiscard]] FileBytes read(const FileEntry& entry) const;

  /// Maps one listed file read-only, its size checked and its SHA-256 not yet: for weights, which
  /// are large and passive. Pages are read when they are first touched. What is made of it may not
  /// be given out before `verify` has passed. @throws BundleError.
  [[nodiscard]] FileBytes map(const FileEntry& entry) const;

  /// Maps and verifies one listed TorchScript archive. Its tensors (`FileBytes::weights`) stay in
  /// the file's pages, which processes share and the system can drop and read again; all else, code
  /// foremost, is copied, so that it stays what was verified. Weights may be written to, and the
  /// file does not change. An archive of another layout is read. @throws BundleError.
  [[nodiscard]] FileBytes map_archive(const FileEntry& entry) const;

  /// Compares a listed file's size and SHA-256, in pieces. @throws BundleError.
  void verify(const FileEntry& entry) const;

  /// Compares what `map` gave with the listed SHA-256. @throws BundleError.
  void verify(const FileEntry& entry, const FileBytes& mapped) const;

  /// Reads, verifies and parses one golden. @throws BundleError.
  [[nodiscard]] std::vector<GoldenCall> golden(const Golden& golden) const;

  /// Verifies every listed file; empty when all is well, else one line for each fault.
  [[nodiscard]] std::vector<std::string> check_files() const;

 private:
  std::filesystem::path root_;
  std::shared_ptr<const Manifest> manifest_;
};

/// What kind of file or folder this is, told from its content, with what to do about it: a bundle,
/// a TorchScript archive, a state dict, an exported program, an AOTInductor package, an ONNX file,
/// safetensors, empty, ... Never executes anything.
struct IdentifiedFile {
  std::string kind;    ///< "bundle", "torchscript", "state_dict", "exported_program", "aoti", ...
  std::string advice;  ///< one sentence: what to do to get a bundle
};
ISTHMUS_API IdentifiedFile identify_file(const std::filesystem::path& path);

}  // namespace isthmus
