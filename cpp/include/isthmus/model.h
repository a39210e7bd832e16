#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "isthmus/bundle.h"
#include "isthmus/device.h"
#include "isthmus/engine.h"
#include "isthmus/export.h"
#include "isthmus/options.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus {

class Model;
struct ParityResult;

/// See verify.h.
ISTHMUS_API std::string remember(const Model& model, const ParityResult& result);

/// The warm-up on one golden.
struct WarmupReport {
  std::string golden;    ///< name of the golden
  int calls = 0;         ///< number of times that the golden was run
  double first_ms = 0;   ///< duration of the first run, milliseconds
  double steady_ms = 0;  ///< duration of the last run, milliseconds
  bool steady = false;   ///< false when the limit of calls or time was reached first
};

/// What `Model::load` selected, and the duration of its phases in milliseconds.
struct LoadReport {
  std::string engine;    ///< "torchscript"
  std::string runtime;   ///< "LibTorch 2.13.0+cpu"
  std::string artifact;  ///< name in the manifest
  std::string device;    ///< "cpu" or "cuda:0"
  std::string chosen;    ///< why this artifact and this engine were selected
  std::string proof;     ///< whether the engine is proven on this artifact, and by what
  int threads = 0;       ///< intra-operator threads that were set; 0: the runtime's default
  double read_ms = 0;    ///< reading and hashing the files
  double load_ms = 0;    ///< loading by the engine
  double warmup_ms = 0;  ///< the warm-up; 0 until it has ended when it runs in the background
  double total_ms = 0;   ///< the whole call of `load`
  std::vector<WarmupReport> warmup;                 ///< one for each golden of the warm-up
  std::vector<std::filesystem::path> op_libraries;  ///< custom operator libraries that were opened
  std::vector<std::string> notes;  ///< sentences about the load, such as an unverified device
};

/// The state of one caller of a stateful model (a stream, a decoder). Sessions share the weights,
/// and keep the model alive.
///
/// Thread safety: a session may be used by one thread at a time, different sessions by different
/// threads.
class ISTHMUS_API Session {
 public:
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  /// Runs "forward", as `Model::run`. @throws InvalidInput, ExecutionError.
  Outputs run(const Inputs& inputs, const RunOptions& options = {});
  /// Runs an exported method by name, such as "reset". @throws InvalidInput, ExecutionError.
  Outputs call(std::string_view method, const Inputs& inputs, const RunOptions& options = {});

 private:
  friend class Model;
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A loaded model. Copies are cheap and share everything. Every call is checked against the
/// signature before the engine runs it.
///
/// Thread safety: all members may be called at once. The calls of a stateful model take turns on
/// one shared state; give each caller a `session()` instead.
class ISTHMUS_API Model {
 public:
  /// Opens, checks, loads and warms up a bundle.
  /// An engine is taken only when it gave the goldens' answers: at export, at an earlier load or
  /// `verify`, or now (`LoadOptions::unproven`). A bundle without goldens cannot be proven: an
  /// engine is then taken when it was asked for by name or is the only one, and the report says so.
  /// @throws BundleError, EngineUnavailable (also for an engine that is not proven),
  ///     DeviceUnavailable, InvalidInput (bad options).
  static Model load(const std::filesystem::path& bundle, const LoadOptions& options = {});

  /// Returns true when the warm-up has ended, which matters only when it runs in the background.
  /// Calls before that give the same answers, and may be slow.
  /// @throws ExecutionError, at each call, when the model failed on its own golden.
  [[nodiscard]] bool ready() const;

  /// Waits for the end of the warm-up. @throws as `ready`.
  void wait_until_ready() const;

  /// Returns which artifact and engine `load` would select with these options, and why, in one
  /// sentence. Loads nothing. @throws as `load`, when nothing here can run the bundle.
  static std::string describe_selection(const Bundle& bundle, const LoadOptions& options = {});

  /// Runs "forward". Inputs must be on the model's device (scalars on the CPU). They are not copied
  /// when they are contiguous, and must not change during the call. Outputs own their memory, which
  /// they share with no input, no weight and no other output; they are on the model's device, and
  /// in the signature's order; an absent output is undefined. On a GPU the work may still be queued
  /// when the call returns, see `synchronize`.
  ///
  /// A call writes the memory of the inputs in Signature::writes, also where these are not
  /// contiguous, and of no others. It does so when it has succeeded: after an error they are as
  /// they were.
  /// @throws InvalidInput, before the engine runs, when the inputs do not fit the signature, or an
  ///     input that the call writes is read-only or overlaps itself or another input;
  ///     ExecutionError when the engine fails.
  Outputs run(const Inputs& inputs, const RunOptions& options = {}) const;

  /// Runs an exported method by name. @throws as `run`.
  Outputs call(std::string_view method, const Inputs& inputs, const RunOptions& options = {}) const;

  /// Runs a method with tensors in the signature's order, which is faster. Has the same checks as
  /// `run`. Absent optional inputs are undefined.
  /// @param inputs  one for each input of the signature; non-contiguous ones are replaced with
  /// copies, unless the method writes inputs
  /// @param method  index into `bundle().manifest().methods`
  /// @throws as `run`.
  std::vector<Tensor> run_ordered(std::span<Tensor> inputs, std::size_t method = 0,
                                  const RunOptions& options = {}) const;

  /// Copies a tensor to a device, such as a golden to the GPU or an output back. A copy to the CPU
  /// waits for the data. A copy to a GPU may be queued before the later calls of the thread; the
  /// source may be changed at once. A tensor that is on the device already may be returned as it
  /// is.
  /// @throws DeviceUnavailable.
  [[nodiscard]] Tensor transfer(const Tensor& tensor, Device device) const;

  /// Copies the inputs of a method from the CPU to the model's device, as `transfer` does. Scalars
  /// stay on the CPU. For a GPU the inputs are checked first, with the ranges of their values,
  /// which a call does not read on a GPU (see `check_inputs`). For the CPU they are returned as
  /// they are.
  /// @throws InvalidInput, DeviceUnavailable.
  [[nodiscard]] Inputs transfer_inputs(const Inputs& inputs,
                                       std::string_view method = "forward") const;

  /// Waits for the work of earlier calls on the model's device. Does nothing on the CPU.
  void synchronize() const;

  /// Returns a new session, with the state as it was after the load. Cheap for a stateless model.
  [[nodiscard]] Session session() const;

  /// Returns the signature of a method. @throws InvalidInput that lists the methods.
  [[nodiscard]] const Signature& signature(std::string_view method = "forward") const;
  [[nodiscard]] std::vector<std::string> methods() const;  ///< "forward" first when there is one
  [[nodiscard]] bool stateful() const noexcept;
  [[nodiscard]] bool can_stop() const noexcept;  ///< the engine supports `RunOptions::timeout`
  [[nodiscard]] Device device() const noexcept;
  [[nodiscard]] const Bundle& bundle() const noexcept;
  [[nodiscard]] const Artifact& artifact() const noexcept;
  /// With a warm-up in the background, its part is complete when `ready` returns true.
  [[nodiscard]] const LoadReport& load_report() const noexcept;

 private:
  friend class Session;
  friend std::string remember(const Model& model, const ParityResult& result);
  struct Impl;
  explicit Model(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace isthmus
