#pragma once

#include <cstddef>
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

/// Version of the interface below; an engine library built for another one is refused.
inline constexpr int kEngineAbi = 4;

/// What an engine says of itself.
struct EngineInfo {
  std::string name;                  ///< "torchscript"
  std::string runtime;               ///< "LibTorch 2.13.0+cpu"; empty when unavailable
  std::string runtime_path;          ///< where the runtime was found
  std::string unavailable;           ///< not empty: why it cannot run here, and the remedy
  std::vector<std::string> devices;  ///< "cpu", "cuda:0 (NVIDIA H200)", ...
  std::vector<std::filesystem::path> runtime_files;  ///< what a deployment without Python ships
  std::vector<std::string> details;                  ///< further facts for `doctor`, one a line
};

/// A loaded artifact. Models check; engines only run: the inputs they get are checked, contiguous,
/// on the right device, in the signature's order, undefined where an optional one is absent.
class ISTHMUS_API Executable {
 public:
  virtual ~Executable() = default;

  /// Runs one method (index into Manifest::methods). Callable from many threads at once unless the
  /// artifact has state. Outputs are in the signature's order and own their memory.
  /// @throws ExecutionError.
  virtual std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) = 0;

  /// Copies a tensor to a device, see Model::transfer; the default serves engines that only know
  /// the CPU.
  /// @throws DeviceUnavailable.
  [[nodiscard]] virtual Tensor transfer(const Tensor& tensor, Device device);

  /// Whether warm-up is to show it a call of every shape in the goldens, with `prepare`.
  [[nodiscard]] virtual bool prepares() const { return false; }

  /// Called by the warm-up, one thread, once the calls with such inputs are steady: the moment to
  /// make what makes later calls of these shapes cheap, such as a CUDA graph. Gives true when such
  /// calls run otherwise from now on.
  /// @throws ExecutionError when the caller demanded it and it cannot be done.
  virtual bool prepare(std::size_t /*method*/, std::span<const Tensor> /*inputs*/) { return false; }

  /// Waits until the work of earlier calls on the device is done.
  virtual void synchronize() {}

  /// What the caller should know about how the artifact was loaded, a sentence each.
  [[nodiscard]] virtual std::vector<std::string> notes() const { return {}; }

  /// An executable with state of its own, as fresh as after load, sharing the weights.
  [[nodiscard]] virtual std::unique_ptr<Executable> fork() const = 0;
};

/// What an engine loads: the manifest, the artifact and its bytes. Those of the methods are
/// verified; data files are mapped, and verified while the engine loads: `Model::load` gives
/// nothing out before.
struct ISTHMUS_API ArtifactSource {
  const Manifest& manifest;
  const Artifact& artifact;
  std::vector<FileBytes> files;  ///< in the order of Artifact::files
  std::filesystem::path root{};  ///< of the bundle, for runtimes that only read files

  /// File names (without folders) of the data files: those after the methods' own.
  [[nodiscard]] std::set<std::string> data_names() const;
};

/// A runtime. Engines validate nothing about calls and never fall back to another device.
class ISTHMUS_API Engine {
 public:
  virtual ~Engine() = default;

  /// Artifact formats it can run; opens nothing.
  [[nodiscard]] virtual std::vector<std::string> formats() const = 0;

  /// Facts; opens the runtime when that is needed to know them. Never throws for an absent runtime.
  [[nodiscard]] virtual EngineInfo info() = 0;

  /// nullopt when this engine can run the artifact here with these options, else the reason.
  [[nodiscard]] virtual std::optional<std::string> can_run(const Artifact& artifact,
                                                           const LoadOptions& options) = 0;

  /// @throws BundleError, EngineUnavailable, DeviceUnavailable, InvalidInput (bad options).
  [[nodiscard]] virtual std::unique_ptr<Executable> load(const ArtifactSource& source,
                                                         const LoadOptions& options) = 0;
};

/// An engine library is named libisthmus_engine_NAME.so and exports these two C functions:
///   int isthmus_engine_abi();                // returns kEngineAbi
///   isthmus::Engine* isthmus_engine();       // the one engine, owned by the library; thread safe
/// It is opened when first asked for and never closed.
#define ISTHMUS_EXPORT_ENGINE(expression)                    \
  extern "C" ISTHMUS_API int isthmus_engine_abi() {          \
    return isthmus::kEngineAbi;                              \
  }                                                          \
  extern "C" ISTHMUS_API isthmus::Engine* isthmus_engine() { \
    return (expression);                                     \
  }

/// Names of the engine libraries found: in `engine_path`, in ISTHMUS_ENGINE_PATH (colon-separated),
/// and beside libisthmus; sorted, without opening them.
ISTHMUS_API std::vector<std::string> engine_names(
    std::span<const std::filesystem::path> engine_path = {});

/// Opens an engine library (once a process).
/// @throws EngineUnavailable naming where it was sought and what to do.
ISTHMUS_API Engine& open_engine(std::string_view name,
                                std::span<const std::filesystem::path> engine_path = {});

}  // namespace isthmus
