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

/// The size of the chunks of large files, which have digests of their own, so that they can be
/// compared in parallel.
inline constexpr std::uint64_t kChunkBytes = 4 << 20;

/// A file of a bundle, as the manifest lists it.
struct FileEntry {
  std::string path;                   ///< relative to the bundle's folder, with forward slashes
  std::uint64_t size = 0;             ///< bytes
  std::string sha256;                 ///< 64 lower-case hexadecimal digits
  std::vector<std::string> chunks{};  ///< SHA-256 of each `kChunkBytes` of the file; may be empty
};

/// The tolerance of an output. When the golden has the errors to float64 and there are `limits`,
/// they apply; otherwise |actual - reference| <= atol + rtol * |reference| must hold for each
/// element.
struct Tolerance {
  double atol = 0;
  double rtol = 0;
  ErrorLimits limits{};
};

/// The difference between eager float32 and eager float64 on the goldens, for one output.
struct NoiseFloor {
  double max_abs = 0;  ///< largest absolute difference
  double rms = 0;      ///< root mean square difference
  std::string method;  ///< "float64"; "ulp" when float64 could not be run; "exact" for integers
};

/// A native library that registers operators.
struct OpLibrary {
  std::string op_namespace;  ///< "torchvision" for "torchvision::nms"
  std::string library;       ///< file name at export; may be empty
  std::string package{};     ///< Python package that the file came with; may be empty
  std::string version{};     ///< version of the package

  /// Returns "torchvision (_C.so of the Python package torchvision 0.29.1)".
  [[nodiscard]] ISTHMUS_API std::string describe() const;
};

/// The verdict of one engine on an artifact, from a run of all goldens.
struct EngineProof {
  std::string engine;   ///< "onnxruntime"
  std::string device;   ///< device type on which it ran: "cpu" or "cuda"
  std::string runtime;  ///< "ONNX Runtime 1.32.0"; empty when it did not open
  bool passed = false;
  std::string reason{};  ///< why it failed; empty when it passed
  /// By input: the numbers on which the engine is proven, where these are fewer than the
  /// signature's. Beyond them it gave other answers than the model.
  std::map<std::string, ValueRange, std::less<>> values{};
  /// By input: the special values with which the engine differs: "nan", "inf", "zero" (of either
  /// sign), "negative_zero", "denormal", "large" (beyond 2^62).
  std::map<std::string, std::vector<std::string>, std::less<>> unproven{};

  /// Returns `values` and `unproven` in words, such as "not proven for NaN in "x"".
  [[nodiscard]] ISTHMUS_API std::vector<std::string> limits() const;
};

struct Golden;

/// One executable file format of the model.
struct Artifact {
  std::string name;                  ///< unique in the bundle, e.g. "torchscript-cpu-fp32"
  std::string format;                ///< "torchscript", "exported", "onnx" or "aoti"
  std::string device;                ///< device type at export: "cpu" or "cuda"
  std::vector<std::string> devices;  ///< device types on which it may run
  std::string precision;             ///< "fp32", "fp16", "bf16", ...
  std::string trust;                 ///< trust that it needs: "data", "graph" or "native"
  std::string convention;            ///< "flat" or "structured", see docs/format.md
  std::string strategy;              ///< TorchScript: "trace", "script", "mixed", "adopted"
  /// First the file to load, or in formats with a file for each method, one per method in the order
  /// of the manifest. The others are data files, which the first ones refer to by file name.
  std::vector<FileEntry> files;
  std::map<std::string, std::string> requires_versions;  ///< e.g. {"torch": "2.13.0"}
  std::vector<OpLibrary> op_libraries;
  std::map<std::string, std::int64_t> operators;             ///< operator -> count
  std::map<std::string, Tolerance, std::less<>> tolerances;  ///< by output name
  std::vector<std::string> state;     ///< attributes that calls change, such as "cell.h"
  std::vector<EngineProof> proofs{};  ///< the verdicts of the engines that were tried at export
  /// By dimension: the sizes that the artifact serves, where these are fewer than the signature's.
  std::map<std::string, DimRange, std::less<>> sizes{};

  /// Returns true when the artifact serves the sizes of a golden.
  [[nodiscard]] ISTHMUS_API bool serves(const Golden& golden) const;
  /// Returns `sizes` in words, such as "33 to 128 of "t""; empty where there are none.
  [[nodiscard]] ISTHMUS_API std::string sizes_text() const;
};

/// One call of a golden.
struct GoldenStep {
  std::string method = "forward";
};

/// Stored inputs and outputs: a sequence of calls (one call for a stateless model).
struct Golden {
  std::string name;
  FileEntry file;  ///< safetensors with "STEP/in/NAME", "STEP/out/NAME" and "STEP/error/NAME"
  std::map<std::string, std::int64_t> dims;  ///< sizes of the named dimensions
  std::vector<GoldenStep> steps;
  /// By input: the kind of special values that it has (see EngineProof::unproven), or "magnitude"
  /// for larger numbers than in the ordinary goldens. Empty for an ordinary golden.
  std::map<std::string, std::string> special{};
};

/// The values of one call of a golden, on the CPU.
struct GoldenCall {
  std::string method;
  Inputs inputs;
  Outputs outputs;
  NamedTensors
      errors{};  ///< output minus the same module in float64, for outputs where it is known
};

/// The parsed manifest.json, see docs/format.md.
struct Manifest {
  int format_version = 1;
  std::string name;
  std::string created;                          ///< ISO 8601, UTC
  std::map<std::string, std::string> producer;  ///< versions of isthmus, torch, python, ...
  std::map<std::string, std::string> source;    ///< the origin of the model
  bool stateful = false;
  std::vector<Signature> methods;  ///< "forward" first when there is one
  std::vector<Artifact> artifacts;
  std::vector<Golden> goldens;
  std::vector<Golden> specials;  ///< goldens of special values, on which engines may differ
  std::map<std::string, NoiseFloor, std::less<>> noise_floor;  ///< by output name
  std::vector<std::string> warmup;  ///< names of the goldens for the warm-up
  std::vector<FileEntry> files;     ///< other files, such as a tokenizer's

  /// Returns the goldens whose sizes an artifact serves.
  [[nodiscard]] ISTHMUS_API std::vector<const Golden*> goldens_of(const Artifact& artifact) const;
};

/// The bytes of a file, which is read or mapped once.
struct FileBytes {
  std::string path;  ///< relative to the bundle's root
  std::shared_ptr<const std::byte[]> data;
  std::size_t size = 0;
  /// The memory in which weights can be used in place, at their offsets in `data`: the same memory,
  /// or a second mapping (`Bundle::map_archive`).
  std::shared_ptr<const std::byte[]> weights;
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data.get(), size}; }
};

/// A bundle on disk. The manifest has at most 16 MiB, and is parsed and validated; no path leads
/// out of the bundle's folder or through a symbolic link; the size and SHA-256 of every file that
/// is read are checked.
///
/// Thread safety: all members may be called at once.
class ISTHMUS_API Bundle {
 public:
  /// Opens a bundle's folder. Reads the manifest only.
  /// @throws BundleError with the kind of `path` (see identify.h) when it is not a bundle, or with
  /// the
  ///     defect of the manifest.
  static Bundle open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& root() const noexcept { return root_; }
  [[nodiscard]] const Manifest& manifest() const noexcept { return *manifest_; }

  /// Returns the signature of a method. @throws InvalidInput that lists the methods.
  [[nodiscard]] const Signature& signature(std::string_view method = "forward") const;

  /// Reads one listed file and compares its digest. @throws BundleError.
  [[nodiscard]] FileBytes read(const FileEntry& entry) const;

  /// Maps one listed file read-only, for weights, which are large. Its size is checked, its digest
  /// is not: nothing that is made of it may be used before `verify` has returned. @throws
  /// BundleError.
  [[nodiscard]] FileBytes map(const FileEntry& entry) const;

  /// Maps one listed archive (TorchScript or an exported program) and compares its digest. The
  /// tensors
  /// (`FileBytes::weights`) stay in the file's pages, which processes share. Everything else, such
  /// as code, becomes private to the process, so that it cannot change after the check. Writing to
  /// the weights does not change the file. An archive with another layout, or on a file system that
  /// cannot map, is read instead.
  /// @throws BundleError.
  [[nodiscard]] FileBytes map_archive(const FileEntry& entry) const;

  /// Compares the size and SHA-256 of a listed file, with little memory. @throws BundleError.
  void verify(const FileEntry& entry) const;

  /// Compares bytes that `map` returned with the listed digest. @throws BundleError.
  void verify(const FileEntry& entry, const FileBytes& mapped) const;

  /// Reads, verifies and parses one golden. Returns its calls in order. @throws BundleError.
  [[nodiscard]] std::vector<GoldenCall> golden(const Golden& golden) const;

  /// Verifies all listed files. Returns a line for each fault.
  [[nodiscard]] std::vector<std::string> check_files() const;

 private:
  std::filesystem::path root_;
  std::shared_ptr<const Manifest> manifest_;
};

}  // namespace isthmus
