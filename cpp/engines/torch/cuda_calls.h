#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engines/torch/cuda_device.h"
#include "engines/torch/cuda_options.h"
#include "isthmus/bundle.h"
#include "isthmus/device.h"
#include "isthmus/options.h"
#include "isthmus/signature.h"
#include "isthmus/tensor.h"

namespace isthmus::torch_engine {

/// How the calls of one artifact run on the device: on which stream, and operator by operator or as
/// a recorded graph. Without the options that ask for more, and on the CPU, it just runs them.
class CudaCalls {
 public:
  /// @throws InvalidInput for bad options, and for graphs demanded (cuda_graphs=on) where there can
  /// be none; EngineUnavailable when what is demanded is not in this build.
  CudaCalls(const Manifest& manifest, const LoadOptions& options, Device device);

  /// One call.
  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs,
                          const RunCall& run_uncaptured);

  /// Records calls with such inputs, when asked for; true when they are replayed from now on.
  /// Other threads may call meanwhile.
  /// @throws ExecutionError when that fails and cuda_graphs=on demands it.
  bool prepare(std::size_t method, const Signature& signature, std::span<const Tensor> inputs,
               const RunCall& run_uncaptured);

  /// Whether calls may be recorded: then nothing in them may wait for the device.
  [[nodiscard]] bool records() const noexcept { return records_; }

  /// What was recorded and what was not, and why.
  [[nodiscard]] std::vector<std::string> notes() const;

 private:
  CudaOptions options_;
  bool records_ = false;
  std::unique_ptr<CudaDevice> cuda_;  ///< null: calls are just run
  mutable std::mutex mutex_;          ///< of the notes
  std::vector<std::string> notes_;
};

}  // namespace isthmus::torch_engine
