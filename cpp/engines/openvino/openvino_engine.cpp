// The openvino engine: the onnx format on OpenVINO's C API.
#include <algorithm>
#include <charconv>
#include <mutex>

#include "engines/call_gate.h"
#include "engines/library_search.h"
#include "engines/onnx_signature.h"
#include "engines/openvino/api_loader.h"
#include "engines/openvino/properties.h"
#include "engines/openvino/tensor_convert.h"
#include "isthmus/engine.h"
#include "isthmus/error.h"
#include "isthmus/machine.h"

namespace isthmus::openvino_engine {
namespace {

/// One input as a request last got it. Binding costs microseconds, and callers mostly reuse their
/// memory, so what is still true is not bound again.
struct Bound {
  Held<ov_tensor_t> view{nullptr, nullptr};
  const void* data = nullptr;
  Shape shape;
};

/// What runs one call at a time, and refers to the memory of its last inputs until they are bound
/// anew.
struct Request {
  Held<ov_infer_request_t> handle{nullptr, nullptr};
  std::vector<Bound> inputs;
};

/// One method: the compiled model, and requests that wait for a caller. A request serves one call
/// at a time, so there are as many as there ever were calls at once.
struct Method {
  Held<ov_compiled_model_t> compiled{nullptr, nullptr};
  std::vector<std::string> input_names;             ///< those that the graph kept
  std::vector<std::size_t> inputs;                  ///< their places in the signature
  std::vector<Held<ov_output_const_port_t>> ports;  ///< where each goes in the compiled model
  std::size_t outputs = 0;
  int streams = 1;  ///< calls that OpenVINO computes at once
  std::mutex mutex;
  std::vector<Request> idle;
};

/// What all forks share: an ONNX graph has no state.
struct Shared {
  const Api* api = nullptr;
  std::vector<std::unique_ptr<Method>> methods;
  std::vector<std::string> method_names;
  std::vector<std::string> notes;
  std::unique_ptr<CallGate> gate;
};

class OpenVinoExecutable final : public Executable {
 public:
  explicit OpenVinoExecutable(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  std::vector<Tensor> run(std::size_t index, std::span<const Tensor> inputs) override {
    Method& method = *shared_->methods[index];
    const Api& api = *shared_->api;
    const CallGate::Pass pass(*shared_->gate);
    try {
      Request request = take(method);
      for (std::size_t i = 0; i < method.inputs.size(); ++i) {
        const Tensor& input = inputs[method.inputs[i]];
        if (!input.defined())
          throw ExecutionError("\"" + shared_->method_names[index] + "\" needs the input \"" +
                               method.input_names[i] +
                               "\": an ONNX graph has no absent inputs; pass it, or use another "
                               "artifact of the bundle");
        bind(request, i, method.ports[i].get(), input);
      }
      infer(method, request, pass.alone());
      std::vector<Tensor> outputs;
      outputs.reserve(method.outputs);
      for (std::size_t i = 0; i < method.outputs; ++i) {
        ov_tensor_t* raw = nullptr;
        require(api, api.ov_infer_request_get_output_tensor_by_index(request.handle.get(), i, &raw),
                "reading an output");
        const Held<ov_tensor_t> output(raw, api.ov_tensor_free);
        outputs.push_back(copy_of(api, output.get()));
      }
      const std::lock_guard lock(method.mutex);
      method.idle.push_back(std::move(request));
      return outputs;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw ExecutionError("\"" + shared_->method_names[index] + "\" failed: " + error.what());
    }
  }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<OpenVinoExecutable>(shared_);
  }

  [[nodiscard]] std::vector<std::string> notes() const override { return shared_->notes; }

 private:
  /// The caller's own thread computes, which is the quickest, where it cannot get in the way:
  /// OpenVINO gives it a stream without asking whether that one is busy. Handed over, a call gets a
  /// free one.
  void infer(const Method& method, const Request& request, bool alone) const {
    const Api& api = *shared_->api;
    if (method.streams == 1 || alone)
      return require(api, api.ov_infer_request_infer(request.handle.get()), "inference");
    require(api, api.ov_infer_request_start_async(request.handle.get()), "starting inference");
    require(api, api.ov_infer_request_wait(request.handle.get()), "inference");
  }

  /// The dtype is the signature's, and never differs between calls.
  void bind(Request& request, std::size_t i, const ov_output_const_port_t* port,
            const Tensor& input) {
    Bound& bound = request.inputs[i];
    if (bound.view != nullptr && bound.data == input.data() && bound.shape == input.shape()) return;
    const Api& api = *shared_->api;
    Held<ov_tensor_t> view = to_openvino(api, input);
    require(api,
            api.ov_infer_request_set_tensor_by_const_port(request.handle.get(), port, view.get()),
            "binding an input");
    bound = {std::move(view), input.data(), input.shape()};
  }

  /// A request of the caller's own; one that failed is not used again.
  Request take(Method& method) {
    {
      const std::lock_guard lock(method.mutex);
      if (!method.idle.empty()) {
        Request request = std::move(method.idle.back());
        method.idle.pop_back();
        return request;
      }
    }
    ov_infer_request_t* made = nullptr;
    require(*shared_->api,
            shared_->api->ov_compiled_model_create_infer_request(method.compiled.get(), &made),
            "making a request");
    Request request{{made, shared_->api->ov_infer_request_free}, {}};
    request.inputs.resize(method.inputs.size());
    return request;
  }

  std::shared_ptr<Shared> shared_;
};

Held<ov_model_t> read_model(const Api& api, const ov_core_t* core, const ArtifactSource& source,
                            const FileBytes& file) {
  ov_model_t* model = nullptr;
  if (source.data_names().empty()) {
    require(api,
            api.ov_core_read_model_from_memory_buffer(
                core, reinterpret_cast<const char*>(file.data.get()), file.size, nullptr, &model),
            "reading the model");
  } else {
    // Weights beside the model are only found from the model's own place on disk.
    const std::string path = (source.root / file.path).string();
    require(api, api.ov_core_read_model(core, path.c_str(), nullptr, &model), "reading the model");
  }
  return {model, api.ov_model_free};
}

/// How many streams OpenVINO made of what it was asked for.
int streams_of(const Api& api, const ov_compiled_model_t* compiled) {
  char* text = nullptr;
  require(api, api.ov_compiled_model_get_property(compiled, "NUM_STREAMS", &text),
          "asking for the number of streams");
  const std::string_view value(text);
  int streams = 1;
  std::from_chars(value.data(), value.data() + value.size(), streams);
  api.ov_free(text);
  return std::max(1, streams);
}

std::unique_ptr<Method> load_method(const Api& api, const ov_core_t* core,
                                    const ArtifactSource& source, std::size_t index) {
  const Signature& signature = source.manifest.methods[index];
  const FileBytes& file = source.files[index];
  const OnnxScan scan = scan_artifact(source, file);
  const Held<ov_model_t> model = read_model(api, core, source, file);
  ov_compiled_model_t* compiled = nullptr;
  require(api, api.ov_core_compile_model(core, model.get(), "CPU", 0, &compiled),
          "compiling the model");
  auto method = std::make_unique<Method>();
  method->compiled = {compiled, api.ov_compiled_model_free};
  method->streams = streams_of(api, compiled);
  method->inputs = bind_signature(signature, scan, file.path).inputs;
  method->outputs = scan.outputs.size();
  for (const std::size_t input : method->inputs) {
    const std::string& name = method->input_names.emplace_back(signature.inputs[input].name);
    ov_output_const_port_t* port = nullptr;
    require(api, api.ov_compiled_model_input_by_name(compiled, name.c_str(), &port),
            ("finding the input \"" + name + "\"").c_str());
    method->ports.emplace_back(port, api.ov_output_const_port_free);
  }
  return method;
}

class OpenVinoEngine final : public Engine {
 public:
  [[nodiscard]] std::vector<std::string> formats() const override { return {"onnx"}; }

  EngineInfo info() override {
    EngineInfo info;
    info.name = "openvino";
    try {
      const Library& library = open_library({});
      info.runtime = "OpenVINO " + library.version;
      info.runtime_path = library.path.string();
      // The C API, what reads ONNX, and what runs on the CPU.
      info.runtime_files = files_beside(
          library.path,
          {"libopenvino_c.so", "libopenvino_onnx_frontend.so", "libopenvino_intel_cpu_plugin.so"});
      info.devices = {"cpu"};
      info.details = {"built for OpenVINO " ISTHMUS_OPENVINO_VERSION ", found: " + library.origin};
    } catch (const EngineUnavailable& error) {
      info.unavailable = error.what();
    }
    return info;
  }

  std::optional<std::string> can_run(const Artifact& artifact,
                                     const LoadOptions& options) override {
    if (artifact.format != "onnx") return "the format is " + artifact.format;
    if (!parse_device(options.device).is_cpu())
      return "it runs on the CPU only, " + options.device + " was asked for";
    return std::nullopt;
  }

  std::unique_ptr<Executable> load(const ArtifactSource& source,
                                   const LoadOptions& options) override {
    const Library& library = open_library(options);
    const Api& api = library.api;
    require_stateless(source);
    const auto properties = properties_of(options, this_machine().cores);
    auto shared = std::make_shared<Shared>();
    shared->api = &api;
    try {
      ov_core_t* raw = nullptr;
      require(api, api.ov_core_create(&raw), "opening OpenVINO");
      const Held<ov_core_t> core(raw, api.ov_core_free);
      for (const auto& [key, value] : properties)
        require(api, api.ov_core_set_property(core.get(), "CPU", key.c_str(), value.c_str()),
                ("setting " + key + "=" + value).c_str());
      for (const auto& file : options.op_libraries)
        require(api, api.ov_core_add_extension(core.get(), file.c_str()),
                "opening an operator library");
      for (std::size_t i = 0; i < source.manifest.methods.size(); ++i) {
        shared->methods.push_back(load_method(api, core.get(), source, i));
        shared->method_names.push_back(source.manifest.methods[i].method);
      }
      const int streams = shared->methods.front()->streams;
      const auto given = given_concurrency(options);
      // One more for each stream waits inside, so that no stream waits for a caller to wake up.
      const int inside = streams == 1 ? 1 : 2 * streams;
      shared->gate =
          std::make_unique<CallGate>(given == 0 ? 0 : std::max(given.value_or(0), inside));
      shared->notes = {std::to_string(streams) + (streams == 1 ? " stream" : " streams")};
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw BundleError("OpenVINO " + library.version + " cannot load \"" +
                        source.files.front().path + "\" (made with " +
                        versions_of(source.artifact) + "): " + error.what() +
                        "; use a newer OpenVINO here, or another engine");
    }
    return std::make_unique<OpenVinoExecutable>(std::move(shared));
  }
};

OpenVinoEngine& engine() {
  static OpenVinoEngine instance;
  return instance;
}

}  // namespace
}  // namespace isthmus::openvino_engine

ISTHMUS_EXPORT_ENGINE(&isthmus::openvino_engine::engine())
