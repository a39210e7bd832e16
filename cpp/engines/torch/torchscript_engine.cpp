// The torchscript format, run by torch::jit.
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>
#include <optional>

#include "engines/torch/ivalue_tree.h"
#include "engines/torch/libtorch_executable.h"
#include "engines/torch/load_module.h"
#include "engines/torch/module_state.h"
#include "engines/torch/tensor_convert.h"
#include "engines/torch/torch_formats.h"
#include "isthmus/error.h"

namespace isthmus::torch_engine {
namespace {

/// What all forks of a module share.
struct ModuleTraits {
  std::vector<torch::jit::Function*> methods;  ///< in the manifest's order, owned by the module
  std::vector<std::string> state;              ///< dotted paths of the attributes that calls change
  bool stateful = false;
  bool structured = false;   ///< the convention; false: flat
  bool unoptimized = false;  ///< see `runs_unoptimized`
};

torch::jit::Function* find_method(const torch::jit::Module& module, const Signature& signature,
                                  bool structured) {
  const auto method = module.find_method(signature.method);
  if (!method)
    throw BundleError("the manifest lists the method \"" + signature.method +
                      "\", which the artifact does not have; export the bundle again");
  const auto& arguments = method->function().getSchema().arguments();
  const std::size_t takes = arguments.size() - 1;
  const std::size_t listed = structured ? signature.args.size() : signature.inputs.size();
  if (structured ? takes < listed : takes != listed)
    throw BundleError("\"" + signature.method + "\" of the artifact takes " +
                      std::to_string(takes) + " arguments, the manifest lists " +
                      std::to_string(listed) + "; export the bundle again");
  if (structured)
    for (const auto& [keyword, tree] : signature.kwargs)
      if (std::none_of(arguments.begin() + 1 + static_cast<std::ptrdiff_t>(listed), arguments.end(),
                       [&name = keyword](const auto& argument) { return argument.name() == name; }))
        throw BundleError("the manifest gives \"" + signature.method + "\" the argument \"" +
                          keyword +
                          "\", which the artifact does not take; export the bundle again");
  return &method->function();
}

class TorchScriptProgram final : public LibtorchProgram {
 public:
  TorchScriptProgram(torch::jit::Module module, std::shared_ptr<const ModuleTraits> traits)
      : module_(std::move(module)), traits_(std::move(traits)) {}

  [[nodiscard]] std::vector<Tensor> launch(std::size_t method, const Signature& signature,
                                           std::span<const Tensor> inputs) const override {
    torch::jit::Function& function = *traits_->methods[method];
    std::vector<Tensor> copies;
    if (traits_->stateful || (traits_->structured && !signature.writes.empty())) {
      copies = owned(signature, inputs);
      inputs = copies;
    }
    torch::jit::Stack stack;
    stack.reserve(inputs.size() + 1);
    stack.emplace_back(module_._ivalue());
    if (traits_->structured) {
      for (c10::IValue& value : build_arguments(signature, function.getSchema(), inputs))
        stack.push_back(std::move(value));
    } else {
      const auto& arguments = function.getSchema().arguments();
      for (std::size_t i = 0; i < inputs.size(); ++i)
        stack.push_back(to_ivalue(signature.inputs[i], inputs[i], arguments[i + 1].type()));
    }
    std::optional<torch::jit::GraphOptimizerEnabledGuard> no_passes;
    if (traits_->unoptimized) no_passes.emplace(false);
    function.run(stack);
    std::vector<Tensor> outputs = traits_->structured
                                      ? flatten_result(signature, stack.back())
                                      : flat_result(signature, std::move(stack.back()));
    // An output may be a view of the state, which the next call may write in place.
    if (traits_->stateful)
      for (Tensor& output : outputs)
        if (output.defined()) output = copy_of(output);
    // A structured module has written the copies.
    if (traits_->structured)
      for (const std::size_t written : signature.writes) outputs.push_back(copies[written]);
    return outputs;
  }

  [[nodiscard]] std::unique_ptr<LibtorchProgram> fork() const override {
    const c10::InferenceMode no_gradients;
    return std::make_unique<TorchScriptProgram>(
        traits_->stateful ? fork_module(module_, traits_->state) : module_, traits_);
  }

 private:
  /// Copies the inputs that the call may write, or keep in its state, which must not refer to
  /// memory that the caller may change.
  [[nodiscard]] std::vector<Tensor> owned(const Signature& signature,
                                          std::span<const Tensor> inputs) const {
    std::vector<Tensor> result(inputs.begin(), inputs.end());
    const auto own = [](Tensor& input) {
      if (input.defined()) input = copy_of(input);
    };
    if (traits_->stateful)
      std::for_each(result.begin(), result.end(), own);
    else
      for (const std::size_t written : signature.writes) own(result[written]);
    return result;
  }

  torch::jit::Module module_;
  std::shared_ptr<const ModuleTraits> traits_;
};

}  // namespace

std::unique_ptr<Executable> load_torchscript(const ArtifactSource& source,
                                             const LoadOptions& options, int concurrency) {
  const Device device = parse_device(options.device);
  auto cuda = std::make_unique<CudaCalls>(source.manifest, options, device);
  LoadedModule loaded = load_module(source, options);
  ModuleTraits traits{.methods = {},
                      .state = source.artifact.state,
                      .stateful = source.manifest.stateful,
                      .structured = source.artifact.convention == "structured",
                      .unoptimized = runs_unoptimized(options)};
  for (const Signature& signature : source.manifest.methods)
    traits.methods.push_back(find_method(loaded.module, signature, traits.structured));
  return make_executable(
      std::make_unique<TorchScriptProgram>(std::move(loaded.module),
                                           std::make_shared<const ModuleTraits>(std::move(traits))),
      {.signatures = source.manifest.methods,
       .notes = std::move(loaded.notes),
       .device = device,
       .concurrency = concurrency,
       .cuda = std::move(cuda)});
}

}  // namespace isthmus::torch_engine
