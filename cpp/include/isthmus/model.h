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

/// How the warm-up of one shape went.
struct WarmupReport {
  std::string golden;    ///< which golden gave the inputs
  int calls = 0;         ///< calls made until steady
  double first_ms = 0;   ///< time of the first call, milliseconds
  double steady_ms = 0;  ///< time of the last call, milliseconds
  bool steady = false;   ///< false: the limit of calls was reached first
};

/// Where the time of `Model::load` went.
struct LoadReport {
  std::string engine;
  std::string runtime;
  std::string artifact;
  std::string device;
  std::string chosen;    ///< why this artifact and this engine
  int threads = 0;       ///< intra-operator threads that were set; 0: left as they were
  double read_ms = 0;    ///< reading and hashing files
  double load_ms = 0;    ///< the engine's own load
  double warmup_ms = 0;  ///< in the background: 0 until the model is ready
  double total_ms = 0;
  std::vector<WarmupReport> warmup;
  std::vector<std::string> notes;  ///< what else the caller should know, e.g. an unproven device
};

/// A caller's own state of a stateful model (a stream, a decoder). Sessions share the weights. One
/// thread at a time may use a session.
class ISTHMUS_API Session {
 public:
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  /// Runs "forward". @throws InvalidInput, ExecutionError.
  Outputs run(const Inputs& inputs, const RunOptions& options = {});
  /// Runs any exported method by name, e.g. "reset".
  Outputs call(std::string_view method, const Inputs& inputs, const RunOptions& options = {});

 private:
  friend class Model;
  struct Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A model, loaded and ready. A handle: copies share everything. Every call is checked against the
/// signature before the engine sees it.
///
/// Thread safety: `run` and `call` may be called from many threads at once. A stateful model's own
/// calls take turns on one shared state; give each caller a `session()` instead.
class ISTHMUS_API Model {
 public:
  /// Opens, checks and loads a bundle.
  /// @throws BundleError, EngineUnavailable, DeviceUnavailable, InvalidInput (bad options).
  static Model load(const std::filesystem::path& bundle, const LoadOptions& options = {});

  /// Whether the warm-up is over; true at once unless it runs in the background. A call before that
  /// is right, and may be slow.
  /// @throws ExecutionError when the model failed on a golden of its own, at each call.
  [[nodiscard]] bool ready() const;

  /// Returns when the warm-up is over. @throws as `ready`.
  void wait_until_ready() const;

  /// What `load` would take with these options, and why, in one sentence; loads nothing.
  /// @throws as `load`, when nothing here can run the bundle.
  static std::string choice(const Bundle& bundle, const LoadOptions& options = {});

  /// Runs "forward". Outputs own their memory and are on the model's device.
  /// @throws InvalidInput before the engine is touched; ExecutionError when the engine fails.
  Outputs run(const Inputs& inputs, const RunOptions& options = {}) const;

  /// Runs any exported method by name.
  Outputs call(std::string_view method, const Inputs& inputs, const RunOptions& options = {}) const;

  /// The fast path: tensors in the signature's order in and out, the same checks. `method` indexes
  /// `bundle().manifest().methods`.
  std::vector<Tensor> run_ordered(std::span<Tensor> inputs, std::size_t method = 0,
                                  const RunOptions& options = {}) const;

  /// Copies a tensor to a device, e.g. a golden to the GPU or an output back. To the CPU it waits
  /// for the data. To a GPU the copy may only be queued, before the thread's later calls; the
  /// tensor given may be changed at once.
  /// @throws DeviceUnavailable.
  [[nodiscard]] Tensor transfer(const Tensor& tensor, Device device) const;

  /// Copies a method's inputs from the CPU to the model's device, each as by `transfer`; numbers
  /// stay. For a GPU they are checked first, values too, as these are not read there (see
  /// `check_inputs`); for the CPU they are given back.
  /// @throws InvalidInput, DeviceUnavailable.
  [[nodiscard]] Inputs transfer_inputs(const Inputs& inputs,
                                       std::string_view method = "forward") const;

  /// Waits until the work of earlier calls on the model's device is done; nothing on the CPU.
  void synchronize() const;

  /// A caller with state of its own (also allowed, and cheap, for a stateless model).
  [[nodiscard]] Session session() const;

  [[nodiscard]] const Signature& signature(std::string_view method = "forward") const;
  [[nodiscard]] std::vector<std::string> methods() const;
  [[nodiscard]] bool stateful() const noexcept;
  [[nodiscard]] Device device() const noexcept;
  [[nodiscard]] const Bundle& bundle() const noexcept;
  [[nodiscard]] const Artifact& artifact() const noexcept;
  /// With the warm-up in the background, that part is filled in when the model is ready.
  [[nodiscard]] const LoadReport& load_report() const noexcept;

 private:
  friend class Session;
  struct Impl;
  explicit Model(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace isthmus
