// The part of the torchscript engine that is linked against LibTorch.
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/jit_exception.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <algorithm>
#include <charconv>

#include "engines/torch/ivalue_tree.h"
#include "engines/torch/load_module.h"
#include "engines/torch/module_state.h"
#include "engines/torch/runtime.h"
#include "engines/torch/tensor_convert.h"
#include "engines/torch/thread_budget.h"
#include "isthmus/error.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

/// What all forks of one artifact share.
struct Shared {
  std::vector<Signature> signatures;
  std::vector<std::string> state;
  std::vector<std::string> notes;
  bool structured = false;
  bool stateful = false;
  Device device;
  std::unique_ptr<CallGate> gate;
};

/// A method of the module, looked up once.
struct BoundMethod {
  torch::jit::Function* function = nullptr;
  const Signature* signature = nullptr;
};

BoundMethod bind_method(const torch::jit::Module& module, const Signature& signature,
                        bool structured) {
  const auto method = module.find_method(signature.method);
  if (!method)
    throw BundleError("the manifest lists the method \"" + signature.method +
                      "\", which the artifact does not have; export the bundle again");
  const std::size_t takes = method->function().getSchema().arguments().size() - 1;
  if (!structured && takes != signature.inputs.size())
    throw BundleError("\"" + signature.method + "\" of the artifact takes " +
                      std::to_string(takes) + " arguments, the manifest lists " +
                      std::to_string(signature.inputs.size()) + "; export the bundle again");
  return {&method->function(), &signature};
}

/// What went wrong in the model's own code, without LibTorch's C++ frames.
std::string model_error(const std::exception& error) {
  std::string text = error.what();
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error))
    text = torch_error->what_without_backtrace();
  const auto end = text.find_last_not_of(" \n");
  return end == std::string::npos ? text : text.substr(0, end + 1);
}

class TorchScriptExecutable final : public Executable {
 public:
  TorchScriptExecutable(torch::jit::Module module, std::shared_ptr<Shared> shared)
      : module_(std::move(module)), shared_(std::move(shared)) {
    for (const Signature& signature : shared_->signatures)
      methods_.push_back(bind_method(module_, signature, shared_->structured));
  }

  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) override {
    const CallGate::Pass pass(*shared_->gate);
    join_thread_budget();
    const c10::InferenceMode no_gradients;
    const c10::OptionalDeviceGuard on_device(
        shared_->device.is_cuda() ? std::optional(to_torch(shared_->device)) : std::nullopt);
    const BoundMethod& bound = methods_[method];
    const Signature& signature = *bound.signature;
    try {
      std::vector<Tensor> copies;
      if (shared_->stateful) {
        copies = owned(inputs);
        inputs = copies;
      }
      torch::jit::Stack stack;
      stack.reserve(inputs.size() + 1);
      stack.emplace_back(module_._ivalue());
      if (shared_->structured) {
        for (c10::IValue& value : build_arguments(signature, bound.function->getSchema(), inputs))
          stack.push_back(std::move(value));
      } else {
        const auto& arguments = bound.function->getSchema().arguments();
        for (std::size_t i = 0; i < inputs.size(); ++i)
          stack.push_back(to_ivalue(signature.inputs[i], inputs[i], arguments[i + 1].type()));
      }
      bound.function->run(stack);
      std::vector<Tensor> outputs = shared_->structured
                                        ? flatten_result(signature, stack.back())
                                        : flat_result(signature, std::move(stack.back()));
      if (shared_->stateful) {
        // What the next call writes in place must not change what this one gave.
        for (Tensor& output : outputs)
          if (output.defined()) output = copy_of(output);
      } else {
        disown_inputs(outputs, inputs);
      }
      return outputs;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw ExecutionError("\"" + signature.method + "\" failed: " + model_error(error));
    }
  }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    const c10::InferenceMode no_gradients;
    return std::make_unique<TorchScriptExecutable>(
        shared_->stateful ? fork_module(module_, shared_->state) : module_, shared_);
  }

  Tensor transfer(const Tensor& tensor, Device device) override {
    if (tensor.device() == device) return tensor;
    const c10::InferenceMode no_gradients;
    return from_model(to_torch(tensor).to(to_torch(device)));
  }

  void synchronize() override {
    if (shared_->device.is_cuda()) torch::cuda::synchronize(shared_->device.index);
  }

  [[nodiscard]] std::vector<std::string> notes() const override { return shared_->notes; }

 private:
  /// State may keep an input; memory that the caller only lent must not be kept, so it is copied.
  static std::vector<Tensor> owned(std::span<const Tensor> inputs) {
    std::vector<Tensor> result(inputs.begin(), inputs.end());
    for (Tensor& input : result)
      if (input.defined() && input.owner() == nullptr && input.numel() != 0) input = copy_of(input);
    return result;
  }

  /// Outputs own their memory: one that is a view of memory that the caller only lent is copied.
  static void disown_inputs(std::vector<Tensor>& outputs, std::span<const Tensor> inputs) {
    for (Tensor& output : outputs) {
      if (!output.defined() || output.numel() == 0) continue;
      const auto* data = static_cast<const std::byte*>(output.data());
      for (const Tensor& input : inputs) {
        if (!input.defined() || input.owner() != nullptr) continue;
        const auto* start = static_cast<const std::byte*>(input.data());
        if (data < start || data >= start + input.nbytes()) continue;
        output = copy_of(output);
        break;
      }
    }
  }

  torch::jit::Module module_;
  std::shared_ptr<Shared> shared_;
  std::vector<BoundMethod> methods_;
};

int concurrency_limit(const LoadOptions& options, Device device) {
  const auto given = options.engine_options.find("max_concurrency");
  if (given != options.engine_options.end()) {
    int limit = -1;
    const std::string& text = given->second;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), limit);
    if (error != std::errc() || end != text.data() + text.size() || limit < 0)
      throw InvalidInput("engine option max_concurrency=" + text +
                         ": expected 0 (no bound) or a positive number");
    return limit;
  }
  // Work on a GPU waits for the GPU, not for cores.
  return device.is_cuda() ? 0 : concurrent_calls(at::get_num_threads());
}

class LibtorchRuntime final : public Runtime {
 public:
  explicit LibtorchRuntime(RuntimeContext context) : context_(std::move(context)) {}

  [[nodiscard]] std::string version() const override { return TORCH_VERSION; }

  [[nodiscard]] std::vector<std::string> devices() const override {
    std::vector<std::string> names{"cpu"};
    if (context_.has_cuda_libraries && context_.cuda_error.empty())
      for (c10::DeviceIndex i = 0; i < static_cast<c10::DeviceIndex>(torch::cuda::device_count());
           ++i)
        names.push_back("cuda:" + std::to_string(i));
    return names;
  }

  [[nodiscard]] std::vector<std::string> details() const override {
    return {"intra-operator threads: " + std::to_string(at::get_num_threads())};
  }

  [[nodiscard]] std::unique_ptr<Executable> load(const ArtifactSource& source,
                                                 const LoadOptions& options) const override {
    const Device device = parse_device(options.device);
    set_thread_budget(options.threads);
    join_thread_budget();
    LoadedModule loaded = load_module(source, options, context_);
    auto shared = std::make_shared<Shared>(
        Shared{source.manifest.methods, source.artifact.state, std::move(loaded.notes),
               source.artifact.convention == "structured", source.manifest.stateful, device,
               std::make_unique<CallGate>(concurrency_limit(options, device))});
    return std::make_unique<TorchScriptExecutable>(std::move(loaded.module), std::move(shared));
  }

 private:
  RuntimeContext context_;
};

}  // namespace
}  // namespace isthmus::torch_engine

extern "C" ISTHMUS_API const isthmus::torch_engine::Runtime* isthmus_libtorch_runtime(
    const isthmus::torch_engine::RuntimeContext* context) {
  static const isthmus::torch_engine::LibtorchRuntime runtime(*context);
  return &runtime;
}
