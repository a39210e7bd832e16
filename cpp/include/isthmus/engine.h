#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/export.h"
#include "isthmus/options.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// The version of the interface below. An engine library that was built for another one is refused.
inline constexpr int kEngineAbi = 5;

/// Facts about an engine.
struct EngineInfo {
  std::string name;                  ///< "torchscript"
  std::string runtime;               ///< "LibTorch 2.13.0+cpu"; empty when unavailable
  std::string runtime_path;          ///< file or folder of the runtime
  std::string unavailable;           ///< not empty: why it cannot run here, and what to do
  std::vector<std::string> devices;  ///< "cpu", "cuda:0 (NVIDIA H200)", ...
  std::vector<std::filesystem::path>
      runtime_files;                 ///< files that a deployment without Python needs
  std::vector<std::string> details;  ///< further facts for `isthmus-run doctor`
};

/// A loaded artifact. The inputs that it gets are checked by Model: they are contiguous, on the
/// right device, in the signature's order, and undefined where an optional input is absent. It only
/// reads them.
class ISTHMUS_API Executable {
 public:
  virtual ~Executable() = default;

  /// Runs a method. Must be callable from many threads at once unless the artifact has state.
  /// Returns outputs in the signature's order, and after them the values that the inputs of
  /// Signature::writes have after the call, in that order. Outputs are contiguous; Model copies
  /// those that share memory with an input or with each other.
  /// @param method  index into Manifest::methods
  /// @throws ExecutionError.
  virtual std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) = 0;

  /// Returns true when `run_within` can stop a call.
  [[nodiscard]] virtual bool can_stop() const noexcept { return false; }

  /// Runs a method as `run` does, and stops it at `deadline`. Called only when `can_stop`. Calls
  /// after one that was stopped work as before.
  /// @throws ExecutionError, also when the call was stopped.
  virtual std::vector<Tensor> run_within(std::size_t method, std::span<const Tensor> inputs,
                                         std::chrono::steady_clock::time_point /*deadline*/) {
    return run(method, inputs);
  }

  /// Copies a tensor to a device, see Model::transfer. The default is for engines that only know
  /// the CPU.
  /// @throws DeviceUnavailable.
  [[nodiscard]] virtual Tensor transfer(const Tensor& tensor, Device device);

  /// Returns a contiguous copy of a tensor on the same device, with memory of its own. The default
  /// is for engines that only know the CPU.
  [[nodiscard]] virtual Tensor copy(const Tensor& tensor);

  /// Copies the elements of a contiguous tensor into a buffer of the same dtype, shape and device,
  /// which may have other strides on the CPU. On a GPU the copy may be queued on the thread's
  /// current stream. The default is for engines that only know the CPU.
  virtual void write(const Tensor& values, const Tensor& buffer);

  /// Returns true when the warm-up shall call `prepare` for every shape of the goldens.
  [[nodiscard]] virtual bool prepares() const { return false; }

  /// Prepares for later calls with the shapes of these inputs, for example by recording a CUDA
  /// graph. The warm-up calls it from one thread, when calls with these inputs are steady. Returns
  /// true when such calls run differently from now on.
  /// @throws ExecutionError when the caller's options require the preparation and it fails.
  virtual bool prepare(std::size_t /*method*/, std::span<const Tensor> /*inputs*/) { return false; }

  /// Waits for the work of earlier calls on the device.
  virtual void synchronize() {}

  /// Returns sentences about how the artifact was loaded, for LoadReport::notes.
  [[nodiscard]] virtual std::vector<std::string> notes() const { return {}; }

  /// Returns an executable that shares the weights, with the state as it was after the load.
  [[nodiscard]] virtual std::unique_ptr<Executable> fork() const = 0;
};

/// The input of Engine::load: the manifest, the artifact and its files. The files of the methods
/// are verified. Data files are mapped, and verified while the engine loads; `Model::load` returns
/// after that.
struct ISTHMUS_API ArtifactSource {
  const Manifest& manifest;
  const Artifact& artifact;
  std::vector<FileBytes> files;  ///< in the order of Artifact::files
  std::filesystem::path root{};  ///< folder of the bundle, for runtimes that only read files

  /// Returns the file names, without folders, of the data files.
  [[nodiscard]] std::set<std::string> data_names() const;
};

/// A runtime. Engines do not check calls, and never fall back to another device. All members may be
/// called from many threads at once.
class ISTHMUS_API Engine {
 public:
  virtual ~Engine() = default;

  /// Returns the artifact formats that it can run. Does not open the runtime.
  [[nodiscard]] virtual std::vector<std::string> formats() const = 0;

  /// Returns facts, and opens the runtime if they need it. Does not throw when the runtime is
  /// missing, see EngineInfo::unavailable.
  [[nodiscard]] virtual EngineInfo info() = 0;

  /// Returns nullopt when this engine can run the artifact with these options, else the reason.
  [[nodiscard]] virtual std::optional<std::string> can_run(const Artifact& artifact,
                                                           const LoadOptions& options) = 0;

  /// Returns true when this engine option may change answers. Such options are part of what an
  /// engine is proven with.
  [[nodiscard]] virtual bool changes_answers(std::string_view /*option*/) const { return true; }

  /// Loads an artifact.
  /// @throws BundleError, EngineUnavailable, DeviceUnavailable, InvalidInput (bad options).
  [[nodiscard]] virtual std::unique_ptr<Executable> load(const ArtifactSource& source,
                                                         const LoadOptions& options) = 0;
};

/// An engine library is named libisthmus_engine_NAME.so and exports these two C functions:
///   int isthmus_engine_abi();                // returns kEngineAbi
///   isthmus::Engine* isthmus_engine();       // the engine, which the library owns
/// The library is opened when it is first needed, and never closed.
#define ISTHMUS_EXPORT_ENGINE(expression)                    \
  extern "C" ISTHMUS_API int isthmus_engine_abi() {          \
    return isthmus::kEngineAbi;                              \
  }                                                          \
  extern "C" ISTHMUS_API isthmus::Engine* isthmus_engine() { \
    return (expression);                                     \
  }

/// Returns the sorted names of the engine libraries in `engine_path`, in the folders of the
/// environment variable ISTHMUS_ENGINE_PATH (separated by colons), and beside libisthmus. Opens
/// none.
/// @throws InvalidInput when a folder of `engine_path` does not exist.
ISTHMUS_API std::vector<std::string> engine_names(
    std::span<const std::filesystem::path> engine_path = {});

/// Returns the engine with this name, and opens its library if that was not done yet. The first
/// folder that has it wins, in the order of `engine_names`. The reference is valid until the
/// process ends.
/// @throws EngineUnavailable with the folders that were searched and what to do; InvalidInput as
///     `engine_names`.
ISTHMUS_API Engine& open_engine(std::string_view name,
                                std::span<const std::filesystem::path> engine_path = {});

/// Returns the libraries of custom operators to open for an artifact: `op_libraries` where the
/// caller named any, else for each namespace that the artifact lists the one in
/// `installed_op_libraries`, or `operators/NAMESPACE.so` in a folder that `engine_names` searches.
/// The bundle names no file. A namespace without a library is left out.
ISTHMUS_API std::vector<std::filesystem::path> op_libraries_of(const Artifact& artifact,
                                                               const LoadOptions& options);

}  // namespace isthmus
