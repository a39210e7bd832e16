#include "engines/torch/cuda_calls.h"

#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

/// Returns why no call of the model can be recorded, with the remedy; empty when calls can be.
std::string no_recording(const Manifest& manifest, const LoadOptions& options, Device device) {
  if (device.is_cpu()) return "the device is cpu; load on cuda";
  if (manifest.stateful)
    return "the model has state, which a replay would not update; such a model has none";
  if (!options.warmup) return "they are recorded at warm-up, which is off; load with warmup";
  if (manifest.goldens.empty())
    return "they are recorded on goldens, of which the bundle has none; export it again";
  return no_cuda_device();
}

std::string describe(const Signature& signature, std::span<const Tensor> inputs) {
  std::string text;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined())
      text += (text.empty() ? "" : ", ") + signature.inputs[i].name + "=" + inputs[i].describe();
  return "\"" + signature.method + "\" on " + text;
}

}  // namespace

CudaCalls::CudaCalls(const Manifest& manifest, const LoadOptions& options, Device device)
    : options_(cuda_options(options)) {
  if (options_.graphs != GraphUse::kOff) {
    const std::string reason = no_recording(manifest, options, device);
    records_ = reason.empty();
    if (!records_ && options_.graphs == GraphUse::kOn) {
      const std::string message =
          "engine option cuda_graphs=on: there can be no CUDA graphs: " + reason +
          ", or use cuda_graphs=auto to run without";
      if (device.is_cuda() && !no_cuda_device().empty()) throw EngineUnavailable(message);
      throw InvalidInput(message);
    }
    if (!records_) notes_.push_back("no CUDA graphs, calls run uncaptured: " + reason);
  }
  if (options_.streams_per_caller && device.is_cpu()) {
    notes_.emplace_back("streams=caller changes nothing: the device is cpu");
    options_.streams_per_caller = false;
  }
  if (records_ || options_.streams_per_caller) cuda_ = make_cuda_device(device, options_);
}

std::vector<Tensor> CudaCalls::run(std::size_t method, std::span<const Tensor> inputs,
                                   const RunCall& run_uncaptured) {
  return cuda_ ? cuda_->run(method, inputs, run_uncaptured) : run_uncaptured(inputs);
}

bool CudaCalls::prepare(std::size_t method, const Signature& signature,
                        std::span<const Tensor> inputs, const RunCall& run_uncaptured) {
  if (!records_) return false;
  const std::string reason = cuda_->record(method, inputs, run_uncaptured);
  if (reason.empty()) return true;
  const std::string what = "no CUDA graph of " + describe(signature, inputs) + ": " + reason;
  if (options_.graphs == GraphUse::kOn)
    throw ExecutionError(what + "; load with the engine option cuda_graphs=auto to run it without");
  const std::lock_guard lock(mutex_);
  notes_.push_back(what + "; such calls run uncaptured");
  return false;
}

std::vector<std::string> CudaCalls::notes() const {
  std::vector<std::string> notes;
  {
    const std::lock_guard lock(mutex_);
    notes = notes_;
  }
  if (records_)
    notes.push_back(std::to_string(cuda_->recorded()) +
                    " CUDA graphs, of the shapes of the goldens; other shapes run uncaptured");
  if (options_.streams_per_caller)
    notes.emplace_back("each calling thread has a stream of its own");
  return notes;
}

}  // namespace isthmus::torch_engine
