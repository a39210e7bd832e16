// The onnxruntime engine: runs the onnx format on ONNX Runtime's C++ API.
#include <algorithm>
#include <filesystem>

#include "engines/alarm.h"
#include "engines/call_gate.h"
#include "engines/library_search.h"
#include "engines/onnx_signature.h"
#include "engines/onnxruntime/api_loader.h"
#include "engines/onnxruntime/device_copy.h"
#include "engines/onnxruntime/session_options.h"
#include "engines/onnxruntime/tensor_convert.h"
#include "isthmus/engine.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"

namespace isthmus::onnxruntime_engine {
namespace {

/// The session of one method, and the binding of the signature's values.
struct Method {
  Ort::Session session{nullptr};
  std::vector<std::string> names;         ///< owns the names below, in their order
  std::vector<const char*> input_names;   ///< the graph's inputs
  std::vector<std::size_t> inputs;        ///< their indices in the signature
  std::vector<const char*> output_names;  ///< in the signature's order
};

/// The data of all forks. An ONNX graph has no state, so forks share everything.
struct Shared {
  std::vector<Method> methods;
  std::vector<FileBytes> data;  ///< mapped weights that sessions may refer to
  std::vector<std::string> notes;
  std::vector<std::string> method_names;
  Device device;
  Ort::MemoryInfo host = memory_info({});
  Ort::MemoryInfo memory;
  std::unique_ptr<CallGate> gate;
};

class OnnxRuntimeExecutable final : public Executable {
 public:
  explicit OnnxRuntimeExecutable(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  std::vector<Tensor> run(std::size_t index, std::span<const Tensor> inputs) override {
    const CallGate::Pass pass(*shared_->gate);
    return call(index, inputs, Ort::RunOptions{nullptr});
  }

  [[nodiscard]] bool can_stop() const noexcept override { return true; }

  std::vector<Tensor> run_within(std::size_t index, std::span<const Tensor> inputs,
                                 Alarm::Clock::time_point deadline) override {
    const CallGate::Pass pass(*shared_->gate, deadline);
    Ort::RunOptions options;
    const Alarm alarm(deadline, [&options] { options.SetTerminate(); });
    try {
      return call(index, inputs, options);
    } catch (const ExecutionError&) {
      if (alarm.rang()) throw stopped_at_timeout(shared_->method_names[index]);
      throw;
    }
  }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<OnnxRuntimeExecutable>(shared_);
  }

  Tensor transfer(const Tensor& tensor, Device device) override {
    if (tensor.device() == device) return tensor;
    return copy_to_device(tensor, device, shared_->methods.front().session);
  }

  Tensor copy(const Tensor& tensor) override {
    if (tensor.device().is_cpu()) return Executable::copy(tensor);
    return copy_to_device(tensor, tensor.device(), shared_->methods.front().session);
  }

  void write(const Tensor& values, const Tensor& buffer) override {
    if (buffer.device().is_cpu()) return Executable::write(values, buffer);
    copy_on_device(values, buffer);
  }

  void synchronize() override {
    if (shared_->device.is_cuda()) synchronize_device(shared_->device);
  }

  [[nodiscard]] std::vector<std::string> notes() const override { return shared_->notes; }

 private:
  std::vector<Tensor> call(std::size_t index, std::span<const Tensor> inputs,
                           const Ort::RunOptions& options) {
    Method& method = shared_->methods[index];
    try {
      std::vector<Ort::Value> values;
      values.reserve(method.inputs.size());
      for (std::size_t i = 0; i < method.inputs.size(); ++i) {
        const Tensor& input = inputs[method.inputs[i]];
        require_present(input, shared_->method_names[index], method.names[i]);
        values.push_back(
            to_value(input, input.device().is_cpu() ? shared_->host : shared_->memory));
      }
      std::vector<Tensor> outputs = shared_->device.is_cpu()
                                        ? run_on_host(method, values, options)
                                        : run_on_device(method, values, options);
      return outputs;
    } catch (const Ort::Exception& error) {
      throw ExecutionError("\"" + shared_->method_names[index] + "\" failed: " + error.what());
    }
  }

  std::vector<Tensor> run_on_host(Method& method, const std::vector<Ort::Value>& values,
                                  const Ort::RunOptions& options) {
    std::vector<Ort::Value> results =
        method.session.Run(options, method.input_names.data(), values.data(), values.size(),
                           method.output_names.data(), method.output_names.size());
    std::vector<Tensor> outputs;
    outputs.reserve(results.size());
    for (Ort::Value& result : results) outputs.push_back(from_value(std::move(result), {}));
    return outputs;
  }

  /// Runs with outputs in device memory of the session.
  std::vector<Tensor> run_on_device(Method& method, const std::vector<Ort::Value>& values,
                                    const Ort::RunOptions& options) {
    Ort::IoBinding binding(method.session);
    for (std::size_t i = 0; i < values.size(); ++i)
      binding.BindInput(method.input_names[i], values[i]);
    for (const char* name : method.output_names) binding.BindOutput(name, shared_->memory);
    method.session.Run(options, binding);
    std::vector<Tensor> outputs;
    for (Ort::Value& result : binding.GetOutputValues())
      outputs.push_back(from_value(std::move(result), shared_->device));
    return outputs;
  }

  std::shared_ptr<Shared> shared_;
};

Ort::Session make_session(const ArtifactSource& source, const FileBytes& file,
                          const Ort::SessionOptions& options, const Library& library) {
  try {
    return {environment(), file.data.get(), file.size, options};
  } catch (const Ort::Exception& error) {
    throw BundleError("ONNX Runtime " + library.version + " cannot load \"" + file.path +
                      "\" (made with " + versions_of(source.artifact) + "): " + error.what() +
                      "; use a newer ONNX Runtime here, or export again");
  }
}

void require_dense_outputs(const Ort::Session& session, const std::vector<std::string>& names,
                           const std::string& file) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (session.GetOutputTypeInfo(i).GetONNXType() == ONNX_TYPE_TENSOR) continue;
    throw BundleError("\"" + file + "\" gives a sequence, map, sparse or optional value as \"" +
                      names[i] +
                      "\"; isthmus carries dense tensors: give those back from the model");
  }
}

Method load_method(const ArtifactSource& source, std::size_t index,
                   const Ort::SessionOptions& options, const Library& library) {
  const Signature& signature = source.manifest.methods[index];
  const FileBytes& file = source.files[index];
  const OnnxScan scan = scan_artifact(source, file);
  Method method;
  method.session = make_session(source, file, options, library);
  require_dense_outputs(method.session, scan.outputs, file.path);
  method.inputs = bind_signature(signature, scan, file.path);
  for (const std::size_t input : method.inputs)
    method.names.push_back(signature.inputs[input].name);
  for (const std::string& output : scan.outputs) method.names.push_back(output);
  for (const std::string& name : method.names)
    (method.input_names.size() < method.inputs.size() ? method.input_names : method.output_names)
        .push_back(name.c_str());
  return method;
}

/// Tells the session where the data files with weights are, to which the model refers by file name.
/// Since version 1.22 ONNX Runtime maps them tensor by tensor and releases what it has packed;
/// earlier versions copy them from memory.
void add_data_files(Ort::SessionOptions& options, const ArtifactSource& source,
                    const std::vector<FileBytes>& files, const Library& library) {
  if (files.empty()) return;
  if (!older(library.version, "1.22")) {
    const std::filesystem::path folder =
        std::filesystem::absolute(source.root / files.front().path).parent_path();
    options.AddConfigEntry("session.model_external_initializers_file_folder_path", folder.c_str());
    return;
  }
  std::vector<std::string> names;
  std::vector<char*> buffers;
  std::vector<std::size_t> sizes;
  for (const FileBytes& file : files) {
    names.push_back(std::filesystem::path(file.path).filename().string());
    buffers.push_back(const_cast<char*>(reinterpret_cast<const char*>(file.data.get())));
    sizes.push_back(file.size);
  }
  options.AddExternalInitializersFromFilesInMemory(names, buffers, sizes);
}

class OnnxRuntimeEngine final : public Engine {
 public:
  [[nodiscard]] std::vector<std::string> formats() const override { return {"onnx"}; }

  EngineInfo info() override {
    EngineInfo info;
    info.name = "onnxruntime";
    try {
      const Library& library = open_library({});
      info.runtime = "ONNX Runtime " + library.version;
      info.runtime_path = library.path.string();
      info.runtime_files = {library.path};
      info.devices = {"cpu"};
      std::string providers;
      for (const std::string& provider : available_providers()) {
        providers += (providers.empty() ? "" : ", ") + provider;
        if (provider == "cuda") info.devices.emplace_back("cuda");
      }
      info.details = {
          "execution providers: " + providers,
          "built for ONNX Runtime " + oldest_version() + " or newer, found: " + library.origin};
    } catch (const EngineUnavailable& error) {
      info.unavailable = error.what();
    }
    return info;
  }

  std::optional<std::string> can_run(const Artifact& artifact, const LoadOptions&) override {
    if (artifact.format != "onnx") return "the format is " + artifact.format;
    return std::nullopt;
  }

  bool changes_answers(std::string_view option) const override {
    return option != "max_concurrency" && option != "memory_arena" && option != "library";
  }

  std::unique_ptr<Executable> load(const ArtifactSource& source,
                                   const LoadOptions& options) override {
    const Library& library = open_library(options);
    const Device device = parse_device(options.device);
    require_stateless(source);
    const int cores = usable_cores();
    const int limit = call_limit(options, device, options.threads > 0 ? options.threads : cores);
    SessionSetup setup = session_setup(options, device, library);
    for (const auto& file : options.op_libraries)
      setup.options.RegisterCustomOpsLibrary(std::filesystem::absolute(file).c_str());
    const std::size_t methods = source.manifest.methods.size();
    std::vector<FileBytes> data(source.files.begin() + static_cast<std::ptrdiff_t>(methods),
                                source.files.end());
    add_data_files(setup.options, source, data, library);
    auto shared = std::make_shared<Shared>(Shared{{},
                                                  std::move(data),
                                                  std::move(setup.notes),
                                                  {},
                                                  device,
                                                  memory_info({}),
                                                  memory_info(device),
                                                  std::make_unique<CallGate>(limit)});
    for (std::size_t i = 0; i < methods; ++i) {
      shared->methods.push_back(load_method(source, i, setup.options, library));
      shared->method_names.push_back(source.manifest.methods[i].method);
    }
    return std::make_unique<OnnxRuntimeExecutable>(std::move(shared));
  }
};

OnnxRuntimeEngine& engine() {
  static OnnxRuntimeEngine instance;
  return instance;
}

}  // namespace
}  // namespace isthmus::onnxruntime_engine

ISTHMUS_EXPORT_ENGINE(&isthmus::onnxruntime_engine::engine())
