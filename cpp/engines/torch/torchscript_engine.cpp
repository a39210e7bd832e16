// The torchscript format on torch::jit.
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <optional>

#include "engines/call_gate.h"
#include "engines/lent_memory.h"
#include "engines/torch/cuda_calls.h"
#include "engines/torch/in_call.h"
#include "engines/torch/ivalue_tree.h"
#include "engines/torch/load_module.h"
#include "engines/torch/module_state.h"
#include "engines/torch/runtime.h"
#include "engines/torch/tensor_convert.h"
#include "engines/torch/thread_budget.h"
#include "engines/torch/torch_formats.h"
#include "engines/torch/transfer.h"
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
  bool as_it_is = false;  ///< see `runs_as_it_is`
  Device device;
  std::unique_ptr<CallGate> gate;
  std::unique_ptr<CudaCalls> cuda;
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

class TorchScriptExecutable final : public Executable {
 public:
  TorchScriptExecutable(torch::jit::Module module, std::shared_ptr<Shared> shared)
      : module_(std::move(module)), shared_(std::move(shared)) {
    for (const Signature& signature : shared_->signatures)
      methods_.push_back(bind_method(module_, signature, shared_->structured));
  }

  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) override {
    const InCall in_call(*shared_->gate, shared_->device);
    return shared_->cuda->run(method, inputs, [&](auto given) { return launch(method, given); });
  }

  [[nodiscard]] bool prepares() const override { return shared_->cuda->records(); }

  bool prepare(std::size_t method, std::span<const Tensor> inputs) override {
    const InCall in_call(*shared_->gate, shared_->device);
    return shared_->cuda->prepare(method, shared_->signatures[method], inputs,
                                  [&](auto given) { return launch(method, given); });
  }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    const c10::InferenceMode no_gradients;
    return std::make_unique<TorchScriptExecutable>(
        shared_->stateful ? fork_module(module_, shared_->state) : module_, shared_);
  }

  Tensor transfer(const Tensor& tensor, Device device) override {
    return transfer_to(tensor, device);
  }

  void synchronize() override { wait_for_device(shared_->device); }

  [[nodiscard]] std::vector<std::string> notes() const override {
    std::vector<std::string> notes = shared_->notes;
    for (std::string& note : shared_->cuda->notes()) notes.push_back(std::move(note));
    return notes;
  }

 private:
  /// Runs the method operator by operator.
  std::vector<Tensor> launch(std::size_t method, std::span<const Tensor> inputs) const {
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
      std::optional<torch::jit::GraphOptimizerEnabledGuard> no_passes;
      if (shared_->as_it_is) no_passes.emplace(false);
      bound.function->run(stack);
      std::vector<Tensor> outputs = shared_->structured
                                        ? flatten_result(signature, stack.back())
                                        : flat_result(signature, std::move(stack.back()));
      if (shared_->stateful) {
        // What the next call writes in place must not change what this one gave.
        for (Tensor& output : outputs)
          if (output.defined()) output = copy_of(output);
      } else {
        disown_inputs(outputs, inputs, copy_of);
      }
      return outputs;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw ExecutionError("\"" + signature.method + "\" failed: " + model_error(error));
    }
  }

  /// State may keep an input; memory that the caller only lent must not be kept, so it is copied.
  static std::vector<Tensor> owned(std::span<const Tensor> inputs) {
    std::vector<Tensor> result(inputs.begin(), inputs.end());
    for (Tensor& input : result)
      if (input.defined() && input.owner() == nullptr && input.numel() != 0) input = copy_of(input);
    return result;
  }

  torch::jit::Module module_;
  std::shared_ptr<Shared> shared_;
  std::vector<BoundMethod> methods_;
};

}  // namespace

std::unique_ptr<Executable> load_torchscript(const ArtifactSource& source,
                                             const LoadOptions& options, int concurrency) {
  const Device device = parse_device(options.device);
  auto cuda = std::make_unique<CudaCalls>(source.manifest, options, device);
  LoadedModule loaded = load_module(source, options);
  auto shared = std::make_shared<Shared>(Shared{
      source.manifest.methods, source.artifact.state, std::move(loaded.notes),
      source.artifact.convention == "structured", source.manifest.stateful, runs_as_it_is(options),
      device, std::make_unique<CallGate>(concurrency), std::move(cuda)});
  return std::make_unique<TorchScriptExecutable>(std::move(loaded.module), std::move(shared));
}

}  // namespace isthmus::torch_engine
