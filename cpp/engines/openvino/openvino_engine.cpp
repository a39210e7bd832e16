// The openvino engine: the onnx format on OpenVINO's C API.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
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

struct Compiled;

/// What runs one call at a time, and refers to the memory of its last inputs until they are bound
/// anew.
struct Request {
  std::shared_ptr<Compiled> of;
  Held<ov_infer_request_t> handle{nullptr, nullptr};
  std::vector<Bound> inputs;
};

using Clock = std::chrono::steady_clock;

/// Of a model whose files are at most so large, streams wait until calls meet that take so long
/// alone. With streams every call changes threads, for 20 to 100 us, which short calls never get
/// back; and a small model is quickly compiled once more.
constexpr std::size_t kSmallBytes = std::size_t{4} << 20;
constexpr std::chrono::microseconds kLongCall{200};
constexpr int kLongCalls = 3;  ///< in a row: one alone may have been interrupted

/// A method as OpenVINO compiled it, and requests that wait for a caller. A request serves one call
/// at a time, so there are as many as there ever were calls at once.
struct Compiled {
  Held<ov_compiled_model_t> handle{nullptr, nullptr};
  std::vector<Held<ov_output_const_port_t>> ports;  ///< where each input goes
  int streams = 1;                                  ///< calls that OpenVINO computes at once
  std::mutex mutex;
  std::vector<Request> idle;  ///< without `of`, which would be this
};

/// One method.
struct Method {
  std::vector<std::string> input_names;  ///< those that the graph kept
  std::vector<std::size_t> inputs;       ///< their places in the signature
  std::size_t outputs = 0;
  std::mutex mutex;                    ///< of `compiled`
  std::shared_ptr<Compiled> compiled;  ///< replaced at most once
  std::mutex model_mutex;
  Held<ov_model_t> model{nullptr, nullptr};  ///< while it may be compiled again, for more streams
  std::atomic<bool> may_grow{false};
  std::atomic<int> long_calls{0};  ///< of those that ran alone, the last so many in a row
};

/// What all forks share: an ONNX graph has no state.
struct Shared {
  const Api* api = nullptr;
  Held<ov_core_t> core{nullptr, nullptr};  ///< set to the properties that are wanted
  std::vector<std::unique_ptr<Method>> methods;
  std::vector<std::string> method_names;
  std::vector<std::string> notes;
  std::unique_ptr<CallGate> gate;
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

std::shared_ptr<Compiled> compile(const Api& api, const ov_core_t* core, const ov_model_t* model,
                                  const std::vector<std::string>& input_names) {
  ov_compiled_model_t* handle = nullptr;
  require(api, api.ov_core_compile_model(core, model, "CPU", 0, &handle), "compiling the model");
  auto compiled = std::make_shared<Compiled>();
  compiled->handle = {handle, api.ov_compiled_model_free};
  compiled->streams = streams_of(api, handle);
  for (const std::string& name : input_names) {
    ov_output_const_port_t* port = nullptr;
    require(api, api.ov_compiled_model_input_by_name(handle, name.c_str(), &port),
            ("finding the input \"" + name + "\"").c_str());
    compiled->ports.emplace_back(port, api.ov_output_const_port_free);
  }
  return compiled;
}

void set_properties(const Api& api, ov_core_t* core, const Properties& properties) {
  for (const auto& [key, value] : properties)
    require(api, api.ov_core_set_property(core, "CPU", key.c_str(), value.c_str()),
            ("setting " + key + "=" + value).c_str());
}

/// Compiles a method again with all the streams that are wanted. Calls go on meanwhile; those that
/// come later take the new one. Where that fails, they keep the one they have.
void grow(Shared& shared, Method& method) {
  const std::unique_lock lock(method.model_mutex, std::try_to_lock);
  if (!lock.owns_lock() || !method.may_grow) return;
  method.may_grow = false;
  const Held<ov_model_t> model = std::move(method.model);
  std::shared_ptr<Compiled> grown;
  try {
    grown = compile(*shared.api, shared.core.get(), model.get(), method.input_names);
  } catch (const std::exception&) {
    return;
  }
  const std::lock_guard compiled_lock(method.mutex);
  method.compiled.swap(grown);
}

std::unique_ptr<Method> load_method(const Api& api, const ov_core_t* core,
                                    const ArtifactSource& source, std::size_t index,
                                    bool may_grow) {
  const Signature& signature = source.manifest.methods[index];
  const FileBytes& file = source.files[index];
  const OnnxScan scan = scan_artifact(source, file);
  Held<ov_model_t> model = read_model(api, core, source, file);
  auto method = std::make_unique<Method>();
  method->inputs = bind_signature(signature, scan, file.path).inputs;
  method->outputs = scan.outputs.size();
  for (const std::size_t input : method->inputs)
    method->input_names.push_back(signature.inputs[input].name);
  method->compiled = compile(api, core, model.get(), method->input_names);
  method->may_grow = may_grow;
  if (may_grow) method->model = std::move(model);
  return method;
}

std::size_t bytes_of(const ArtifactSource& source) {
  std::size_t bytes = 0;
  for (const FileBytes& file : source.files) bytes += file.size;
  return bytes;
}

class OpenVinoExecutable final : public Executable {
 public:
  explicit OpenVinoExecutable(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  std::vector<Tensor> run(std::size_t index, std::span<const Tensor> inputs) override {
    Method& method = *shared_->methods[index];
    const Api& api = *shared_->api;
    const CallGate::Pass pass(*shared_->gate);
    try {
      const bool growing = method.may_grow;
      if (growing && !pass.alone() && method.long_calls >= kLongCalls) grow(*shared_, method);
      Request request = take(method);
      for (std::size_t i = 0; i < method.inputs.size(); ++i) {
        const Tensor& input = inputs[method.inputs[i]];
        if (!input.defined())
          throw ExecutionError("\"" + shared_->method_names[index] + "\" needs the input \"" +
                               method.input_names[i] +
                               "\": an ONNX graph has no absent inputs; pass it, or use another "
                               "artifact of the bundle");
        bind(request, i, request.of->ports[i].get(), input);
      }
      const auto start = growing ? Clock::now() : Clock::time_point{};
      infer(request, pass.alone());
      if (growing && pass.alone())
        method.long_calls = Clock::now() - start < kLongCall ? 0 : method.long_calls + 1;
      std::vector<Tensor> outputs;
      outputs.reserve(method.outputs);
      for (std::size_t i = 0; i < method.outputs; ++i) {
        ov_tensor_t* raw = nullptr;
        require(api, api.ov_infer_request_get_output_tensor_by_index(request.handle.get(), i, &raw),
                "reading an output");
        const Held<ov_tensor_t> output(raw, api.ov_tensor_free);
        outputs.push_back(copy_of(api, output.get()));
      }
      give_back(std::move(request));
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
  /// Asked to infer at once, OpenVINO takes a stream without asking whether that one is busy, so
  /// that is for calls that cannot get in each other's way. Started, a call gets a free stream.
  void infer(const Request& request, bool alone) const {
    const Api& api = *shared_->api;
    if (request.of->streams == 1 || alone)
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
    std::shared_ptr<Compiled> compiled;
    {
      const std::lock_guard lock(method.mutex);
      compiled = method.compiled;
    }
    {
      const std::lock_guard lock(compiled->mutex);
      if (!compiled->idle.empty()) {
        Request request = std::move(compiled->idle.back());
        compiled->idle.pop_back();
        request.of = std::move(compiled);
        return request;
      }
    }
    ov_infer_request_t* made = nullptr;
    require(*shared_->api,
            shared_->api->ov_compiled_model_create_infer_request(compiled->handle.get(), &made),
            "making a request");
    Request request{std::move(compiled), {made, shared_->api->ov_infer_request_free}, {}};
    request.inputs.resize(method.inputs.size());
    return request;
  }

  static void give_back(Request request) {
    const std::shared_ptr<Compiled> compiled = std::move(request.of);
    const std::lock_guard lock(compiled->mutex);
    compiled->idle.push_back(std::move(request));
  }

  std::shared_ptr<Shared> shared_;
};

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
    const Properties wanted = properties_of(options, usable_cores());
    const std::optional<Properties> at_first =
        bytes_of(source) <= kSmallBytes ? with_one_stream(wanted, options) : std::nullopt;
    auto shared = std::make_shared<Shared>();
    shared->api = &api;
    try {
      ov_core_t* core = nullptr;
      require(api, api.ov_core_create(&core), "opening OpenVINO");
      shared->core = {core, api.ov_core_free};
      set_properties(api, core, at_first.value_or(wanted));
      for (const auto& file : options.op_libraries)
        require(api, api.ov_core_add_extension(core, file.c_str()), "opening an operator library");
      for (std::size_t i = 0; i < source.manifest.methods.size(); ++i) {
        shared->methods.push_back(load_method(api, core, source, i, at_first.has_value()));
        shared->method_names.push_back(source.manifest.methods[i].method);
      }
      if (at_first) set_properties(api, core, wanted);
      const int now = shared->methods.front()->compiled->streams;
      const int streams = at_first ? concurrent_calls(options.threads) : now;
      const auto given = given_concurrency(options);
      // One more for each stream waits inside, so that no stream waits for a caller to wake up.
      const int inside = streams == 1 ? 1 : 2 * streams;
      shared->gate =
          std::make_unique<CallGate>(given == 0 ? 0 : std::max(given.value_or(0), inside));
      shared->notes = {std::to_string(now) + (now == 1 ? " stream" : " streams") +
                       (at_first ? ", " + std::to_string(streams) + " when long calls meet" : "")};
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
