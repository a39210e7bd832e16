// The exported format: programs of torch.export, interpreted on LibTorch's dispatcher.
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <map>
#include <unordered_set>

#include "engines/torch/ivalue_tree.h"
#include "engines/torch/libtorch_executable.h"
#include "engines/torch/operator_check.h"
#include "engines/torch/operator_libraries.h"
#include "engines/torch/program_plan.h"
#include "engines/torch/tensor_convert.h"
#include "engines/torch/torch_formats.h"
#include "isthmus/error.h"
#include "isthmus/exported_program.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

constexpr std::size_t kAlignment = 64;  // of torch.export.save; kernels may rely on it

/// Where the value of a graph's input comes from.
struct InputSource {
  enum class Kind : std::uint8_t { kUser, kWeight, kState };
  Kind kind = Kind::kUser;
  std::string buffer{};  ///< of the state
};

/// A program that is ready to run, without its state.
struct PreparedProgram {
  std::unique_ptr<const ProgramPlan> plan;
  std::vector<ProgramOutput> outputs;
  std::vector<InputSource> inputs;  ///< of the graph, in order
  std::size_t user_inputs = 0;
};

/// The buffers that calls change, by name; those of each fork are its own.
using State = std::map<std::string, at::Tensor, std::less<>>;

/// Loads the tensors of one file.
class TensorLoader {
 public:
  TensorLoader(const FileBytes& file, c10::Device device) : file_(file), device_(device) {}

  at::Tensor load(const ProgramTensor& stored) {
    const c10::Storage& storage = record(stored);
    const auto dtype = to_scalar_type(stored.dtype);
    at::Tensor tensor = at::empty({0}, at::TensorOptions().dtype(dtype).device(device_));
    tensor.set_(storage, stored.offset, stored.sizes, stored.strides);
    return tensor;
  }

 private:
  /// Tensors that share a record share memory, as they did in the model.
  const c10::Storage& record(const ProgramTensor& stored) {
    const auto known = records_.find(stored.record);
    if (known != records_.end()) return known->second;
    return records_.emplace(stored.record, make(stored)).first->second;
  }

  [[nodiscard]] c10::Storage make(const ProgramTensor& stored) const {
    auto* at = const_cast<std::byte*>(file_.weights.get()) + stored.record;
    const auto size = static_cast<std::int64_t>(stored.record_size);
    using Owner = std::shared_ptr<const std::byte[]>;
    const at::Tensor bytes =
        at::from_blob(at, {size}, [owner = Owner(file_.weights)](void*) {}, at::kByte);
    const bool in_place =
        device_.is_cpu() && reinterpret_cast<std::uintptr_t>(at) % kAlignment == 0;
    return (in_place ? bytes : bytes.to(device_, at::kByte, false, /*copy=*/true)).storage();
  }

  const FileBytes& file_;
  c10::Device device_;
  std::map<std::size_t, c10::Storage> records_;
};

ExportedScan read_program(const ArtifactSource& source, const FileBytes& file,
                          const LoadOptions& options) {
  ExportedScan scan =
      read_exported_program(file.bytes(), allowed_namespaces(source.artifact, options));
  const auto of_operator = [](const Finding& finding) { return finding.kind == "operator"; };
  // What is trusted as native code may call any operator.
  if (options.trust == Trust::kNative) std::erase_if(scan.findings, of_operator);
  if (scan.refused()) {
    const bool may_be_trusted =
        std::all_of(scan.findings.begin(), scan.findings.end(), of_operator);
    throw BundleError("\"" + file.path + "\" is refused before it is loaded:\n" + scan.describe() +
                      (may_be_trusted ? "\nIf you trust where it came from as you would trust a "
                                        "program, load it with trust \"native\" (--trust native)"
                                      : ""));
  }
  return scan;
}

/// Prepares the program of one method.
/// @param state  receives the buffers that calls change
PreparedProgram prepare(const ArtifactSource& source, const FileBytes& file,
                        const LoadOptions& options, c10::Device device, State& state) {
  const ExportedScan scan = read_program(source, file, options);
  const ExportedProgram& program = scan.program;
  std::set<std::string> changed(source.artifact.state.begin(), source.artifact.state.end());
  for (const ProgramOutput& output : program.outputs)
    if (output.kind == ProgramOutput::Kind::kBuffer) changed.insert(output.name);

  PreparedProgram prepared;
  prepared.outputs = program.outputs;
  TensorLoader loader(file, device);
  std::vector<c10::IValue> tensors(program.graph.slots);
  auto weights = std::make_shared<std::unordered_set<const c10::StorageImpl*>>();
  for (std::size_t i = 0; i < program.inputs.size(); ++i) {
    const ProgramInput& input = program.inputs[i];
    if (input.kind == ProgramInput::Kind::kUser) {
      prepared.inputs.emplace_back();
      ++prepared.user_inputs;
      continue;
    }
    at::Tensor tensor = loader.load(program.tensors.at(input.name));
    if (changed.contains(input.name)) {
      prepared.inputs.push_back({InputSource::Kind::kState, input.name});
      state.emplace(input.name, std::move(tensor));
      continue;
    }
    prepared.inputs.push_back({InputSource::Kind::kWeight});
    weights->insert(tensor.storage().unsafeGetStorageImpl());
    tensors[static_cast<std::size_t>(program.graph.inputs[i].integer)] = std::move(tensor);
  }
  prepared.plan = std::make_unique<const ProgramPlan>(program.graph, tensors,
                                                      PlanContext{device, std::move(weights)});
  return prepared;
}

class ExportedEngineProgram final : public LibtorchProgram {
 public:
  ExportedEngineProgram(std::shared_ptr<const std::vector<PreparedProgram>> methods, State state)
      : methods_(std::move(methods)), state_(std::move(state)) {}

  [[nodiscard]] std::vector<Tensor> launch(std::size_t method, const Signature& signature,
                                           std::span<const Tensor> inputs) const override {
    const PreparedProgram& program = (*methods_)[method];
    Values values;
    values.reserve(program.inputs.size());
    auto next = inputs.begin();
    for (const InputSource& source : program.inputs) {
      switch (source.kind) {
        case InputSource::Kind::kUser:
          values.push_back(input_value(signature, *next++));
          break;
        case InputSource::Kind::kState:
          values.emplace_back(state_.find(source.buffer)->second);
          break;
        case InputSource::Kind::kWeight:  // the plan has it
          values.emplace_back();
          break;
      }
    }
    return outputs_of(program, signature, program.plan->run(std::move(values)));
  }

  [[nodiscard]] std::unique_ptr<LibtorchProgram> fork() const override {
    const c10::InferenceMode no_gradients;
    State copies;
    for (const auto& [name, tensor] : state_) copies.emplace(name, tensor.clone());
    return std::make_unique<ExportedEngineProgram>(methods_, std::move(copies));
  }

 private:
  [[nodiscard]] c10::IValue input_value(const Signature& signature, const Tensor& input) const {
    if (!input.defined())
      throw ExecutionError("\"" + signature.method +
                           "\" got an absent input: an exported program has none; pass it, or use "
                           "another artifact of the bundle");
    // The state must not refer to memory that the caller may change.
    return state_.empty() ? to_torch(input) : to_torch(copy_of(input));
  }

  std::vector<Tensor> outputs_of(const PreparedProgram& program, const Signature& signature,
                                 Values values) const {
    std::vector<c10::IValue> results;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const ProgramOutput& output = program.outputs[i];
      if (output.kind == ProgramOutput::Kind::kUser) {
        results.push_back(std::move(values[i]));
      } else if (output.kind == ProgramOutput::Kind::kBuffer) {
        state_.find(output.name)->second.copy_(values[i].toTensor());
      }
    }
    for (std::size_t i = 0; i < values.size(); ++i)
      if (program.outputs[i].kind == ProgramOutput::Kind::kInput)
        results.push_back(std::move(values[i]));
    std::vector<Tensor> outputs =
        flat_result(signature, c10::ivalue::Tuple::create(std::move(results)));
    // An output may be a view of the state, which the next call may write in place.
    if (!state_.empty())
      for (Tensor& output : outputs)
        if (output.defined()) output = copy_of(output);
    return outputs;
  }

  std::shared_ptr<const std::vector<PreparedProgram>> methods_;
  State state_;
};

}  // namespace

std::unique_ptr<Executable> load_exported(const ArtifactSource& source, const LoadOptions& options,
                                          int concurrency) {
  const Device device = parse_device(options.device);
  for (const auto& [key, value] : options.engine_options)
    if (key != "max_concurrency" && !is_cuda_option(key))
      throw InvalidInput("engine option \"" + key +
                         "\" is unknown to the exported engine; expected max_concurrency, " +
                         std::string(kCudaOptionNames));
  if (source.files.size() != source.manifest.methods.size() ||
      (source.manifest.stateful && source.files.size() > 1))
    throw BundleError("artifact \"" + source.artifact.name +
                      "\": expected one program for each method, and a single method of a model "
                      "with state; export the bundle again");
  auto cuda = std::make_unique<CudaCalls>(source.manifest, options, device);
  open_op_libraries(options.op_libraries);
  const c10::InferenceMode no_gradients;
  std::vector<PreparedProgram> methods;
  State state;
  for (std::size_t i = 0; i < source.files.size(); ++i) {
    methods.push_back(prepare(source, source.files[i], options, to_torch(device), state));
    const Signature& signature = source.manifest.methods[i];
    if (methods.back().user_inputs != signature.inputs.size())
      throw BundleError("\"" + signature.method + "\" of the artifact takes " +
                        std::to_string(methods.back().user_inputs) +
                        " inputs, the manifest lists " + std::to_string(signature.inputs.size()) +
                        "; export the bundle again");
  }
  if (state.empty() == source.manifest.stateful)
    throw BundleError("artifact \"" + source.artifact.name +
                      "\": the manifest and the program differ on whether calls change the model; "
                      "export the bundle again");
  return make_executable(
      std::make_unique<ExportedEngineProgram>(
          std::make_shared<const std::vector<PreparedProgram>>(std::move(methods)),
          std::move(state)),
      {.signatures = source.manifest.methods,
       .notes = {},
       .device = device,
       .concurrency = concurrency,
       .cuda = std::move(cuda)});
}

}  // namespace isthmus::torch_engine
