// The openvino engine: runs the onnx format on OpenVINO's C API.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "engines/alarm.h"
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

/// The last binding of an input of a request. Binding takes microseconds, and most callers reuse
/// their memory, so an unchanged binding is kept.
struct Bound {
  Handle<ov_tensor_t> view{nullptr, nullptr};
  const void* data = nullptr;
  Shape shape;
};

struct Compiled;

/// Tells when an asynchronous inference has ended.
class Ended {
 public:
  Ended() = default;
  Ended(const Ended&) = delete;
  Ended& operator=(const Ended&) = delete;

  /// The callback to register. OpenVINO keeps the pointer.
  [[nodiscard]] const ov_callback_t* callback() const noexcept { return &callback_; }

  void begin() {
    const std::lock_guard lock(mutex_);
    ended_ = false;
  }
  /// Returns false when the inference still runs at `deadline`.
  bool wait_until(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, deadline, [this] { return ended_; });
  }

 private:
  static void signal(void* self) {
    auto* ended = static_cast<Ended*>(self);
    const std::lock_guard lock(ended->mutex_);
    ended->ended_ = true;
    ended->changed_.notify_all();
  }

  const ov_callback_t callback_{&Ended::signal, this};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
};

/// An inference request, which runs one call at a time. It refers to the memory of its last inputs
/// until they are bound again.
struct Request {
  std::shared_ptr<Compiled> compiled;
  std::unique_ptr<Ended> ended;  ///< set by the first call with a timeout
  Handle<ov_infer_request_t> handle{nullptr, nullptr};
  std::vector<Bound> inputs;
  std::vector<Tensor> kept{};  ///< the inputs of a call with a timeout, which it may outlive
};

using Clock = std::chrono::steady_clock;

/// A small model starts with one stream, and is compiled again with several when long calls run at
/// the same time. With several streams every call changes threads, which takes 20 to 100 us and
/// does not pay off for short calls; a small model is quickly compiled again.
constexpr std::size_t kSmallBytes = std::size_t{4} << 20;  ///< largest files of a small model
constexpr std::chrono::microseconds kLongCall{200};        ///< least time of a long call, alone
constexpr int kLongCalls = 3;  ///< long calls in a row; a single one may have been interrupted

/// A compiled method and its idle requests. A request serves one call at a time, so there are as
/// many as there were calls at once.
struct Compiled {
  Handle<ov_compiled_model_t> handle{nullptr, nullptr};
  std::vector<Handle<ov_output_const_port_t>> ports;  ///< of each input
  int streams = 1;                                    ///< calls that OpenVINO computes at once
  std::mutex mutex;                                   ///< guards `idle`
  /// `compiled` is empty in these, else they would keep this alive.
  std::vector<std::unique_ptr<Request>> idle;
};

struct Method {
  std::vector<std::string> input_names;  ///< the graph's inputs
  std::vector<std::size_t> inputs;       ///< their indices in the signature
  std::size_t outputs = 0;
  std::mutex mutex;                            ///< guards `compiled`
  std::shared_ptr<Compiled> compiled;          ///< replaced at most once
  std::mutex model_mutex;                      ///< guards `model`
  Handle<ov_model_t> model{nullptr, nullptr};  ///< of a small model, to compile it again
  std::atomic<bool> may_grow{false};           ///< it may be compiled again, with more streams
  std::atomic<int> long_calls{0};  ///< number of latest calls in a row that were long, alone
};

/// The data of all forks. An ONNX graph has no state, so forks share everything.
struct Shared {
  const Api* api = nullptr;
  Handle<ov_core_t> core{nullptr, nullptr};  ///< has the final properties
  std::vector<std::unique_ptr<Method>> methods;
  std::vector<std::string> method_names;
  std::mutex notes_mutex;
  std::vector<std::string> notes;  ///< guarded by `notes_mutex`
  std::unique_ptr<CallGate> gate;
};

Handle<ov_model_t> read_model(const Api& api, const ov_core_t* core, const ArtifactSource& source,
                              const FileBytes& file) {
  ov_model_t* model = nullptr;
  if (source.data_names().empty()) {
    require(api,
            api.ov_core_read_model_from_memory_buffer(
                core, reinterpret_cast<const char*>(file.data.get()), file.size, nullptr, &model),
            "reading the model");
  } else {
    // OpenVINO finds data files only when it reads the model from its path.
    const std::string path = (source.root / file.path).string();
    require(api, api.ov_core_read_model(core, path.c_str(), nullptr, &model), "reading the model");
  }
  return {model, api.ov_model_free};
}

/// Returns the number of streams that OpenVINO has created.
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

/// Compiles a method again with all its streams. Calls continue meanwhile; later ones use the new
/// model. When compiling fails, they use the old one, and a note says why.
void grow(Shared& shared, Method& method) {
  const std::unique_lock lock(method.model_mutex, std::try_to_lock);
  if (!lock.owns_lock() || !method.may_grow) return;
  method.may_grow = false;
  std::shared_ptr<Compiled> grown;
  try {
    grown = compile(*shared.api, shared.core.get(), method.model.get(), method.input_names);
  } catch (const std::exception& error) {
    const std::lock_guard notes_lock(shared.notes_mutex);
    shared.notes.push_back(std::string("compiling again with more streams failed, so calls that "
                                       "meet share the first streams: ") +
                           error.what());
    return;
  }
  const std::lock_guard compiled_lock(method.mutex);
  method.compiled.swap(grown);
}

std::unique_ptr<Method> load_method(const Api& api, const ov_core_t* core,
                                    const ArtifactSource& source, std::size_t index,
                                    bool keep_model, bool may_grow) {
  const Signature& signature = source.manifest.methods[index];
  const FileBytes& file = source.files[index];
  const OnnxScan scan = scan_artifact(source, file);
  Handle<ov_model_t> model = read_model(api, core, source, file);
  auto method = std::make_unique<Method>();
  method->inputs = bind_signature(signature, scan, file.path);
  method->outputs = scan.outputs.size();
  for (const std::size_t input : method->inputs)
    method->input_names.push_back(signature.inputs[input].name);
  method->compiled = compile(api, core, model.get(), method->input_names);
  method->may_grow = may_grow;
  if (keep_model) method->model = std::move(model);
  return method;
}

std::size_t bytes_of(const ArtifactSource& source) {
  std::size_t bytes = 0;
  for (const FileBytes& file : source.files) bytes += file.size;
  return bytes;
}

/// An inference that nobody waits for any more, with everything that it uses.
struct Abandoned {
  std::shared_ptr<Shared> shared;
  std::unique_ptr<Request> request;
};

/// Keeps an inference until it has ended, and releases earlier ones that have.
void keep_until_ended(Abandoned abandoned) {
  static std::mutex& mutex = *new std::mutex;                       // NOLINT: never destroyed,
  static auto& all = *new std::vector<std::unique_ptr<Abandoned>>;  // NOLINT: they may go on
  const std::lock_guard lock(mutex);
  std::erase_if(all, [](const auto& kept) {
    if (!kept->request->ended->wait_until(Clock::now())) return false;
    // The callback is not the last thing that OpenVINO does.
    (void)kept->shared->api->ov_infer_request_wait(kept->request->handle.get());
    return true;
  });
  all.push_back(std::make_unique<Abandoned>(std::move(abandoned)));
}

class OpenVinoExecutable final : public Executable {
 public:
  explicit OpenVinoExecutable(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  std::vector<Tensor> run(std::size_t index, std::span<const Tensor> inputs) override {
    const CallGate::Pass pass(*shared_->gate);
    return call(index, inputs, pass.alone(), Clock::time_point::max());
  }

  [[nodiscard]] bool can_stop() const noexcept override { return true; }

  std::vector<Tensor> run_within(std::size_t index, std::span<const Tensor> inputs,
                                 Clock::time_point deadline) override {
    const CallGate::Pass pass(*shared_->gate, deadline);
    return call(index, inputs, pass.alone(), deadline);
  }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<OpenVinoExecutable>(shared_);
  }

  [[nodiscard]] std::vector<std::string> notes() const override {
    const std::lock_guard lock(shared_->notes_mutex);
    return shared_->notes;
  }

 private:
  /// @param alone     no other call runs
  /// @param deadline  when the call is stopped
  std::vector<Tensor> call(std::size_t index, std::span<const Tensor> inputs, bool alone,
                           Clock::time_point deadline) {
    Method& method = *shared_->methods[index];
    const Api& api = *shared_->api;
    const bool timed = deadline != Clock::time_point::max();
    try {
      const bool growing = method.may_grow;
      if (growing && !alone && method.long_calls >= kLongCalls) grow(*shared_, method);
      std::unique_ptr<Request> taken = take(method);
      Request& request = *taken;
      for (std::size_t i = 0; i < method.inputs.size(); ++i) {
        const Tensor& input = inputs[method.inputs[i]];
        require_present(input, shared_->method_names[index], method.input_names[i]);
        if (timed) request.kept.push_back(input.clone());
        bind(request, i, request.compiled->ports[i].get(), timed ? request.kept.back() : input);
      }
      const auto start = growing ? Clock::now() : Clock::time_point{};
      if (timed)
        infer_until(index, taken, deadline);
      else
        infer(request, alone);
      if (growing && alone)
        method.long_calls = Clock::now() - start < kLongCall ? 0 : method.long_calls + 1;
      std::vector<Tensor> outputs;
      outputs.reserve(method.outputs);
      for (std::size_t i = 0; i < method.outputs; ++i) {
        ov_tensor_t* raw = nullptr;
        require(api, api.ov_infer_request_get_output_tensor_by_index(request.handle.get(), i, &raw),
                "reading an output");
        const Handle<ov_tensor_t> output(raw, api.ov_tensor_free);
        outputs.push_back(copy_of(api, output.get()));
      }
      request.kept.clear();
      give_back(std::move(taken));
      return outputs;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw ExecutionError("\"" + shared_->method_names[index] + "\" failed: " + error.what());
    }
  }

  /// Infers, and stops waiting for it at the deadline.
  /// @throws ExecutionError when it has not ended by then.
  void infer_until(std::size_t index, std::unique_ptr<Request>& request,
                   Clock::time_point deadline) {
    const Api& api = *shared_->api;
    ov_infer_request_t* handle = request->handle.get();
    if (request->ended == nullptr) {
      request->ended = std::make_unique<Ended>();
      require(api, api.ov_infer_request_set_callback(handle, request->ended->callback()),
              "setting a callback");
    }
    request->ended->begin();
    require(api, api.ov_infer_request_start_async(handle), "starting inference");
    if (!request->ended->wait_until(deadline)) abandon(index, std::move(request));
    require(api, api.ov_infer_request_wait(handle), "inference");
  }

  /// Leaves an inference behind that goes on. Cancelling it would not help: OpenVINO 2026.4 then
  /// reports its end at once while it still computes, and mixes its results with those of the next
  /// call.
  /// @throws ExecutionError, always.
  [[noreturn]] void abandon(std::size_t index, std::unique_ptr<Request> request) {
    Method& method = *shared_->methods[index];
    const std::shared_ptr<Compiled> busy = request->compiled;
    keep_until_ended({shared_, std::move(request)});
    const std::string what = "\"" + shared_->method_names[index] +
                             "\" was stopped at its timeout (RunOptions::timeout); OpenVINO cannot "
                             "interrupt what it computes, which goes on in the background";
    const std::lock_guard lock(method.model_mutex);
    if (method.model == nullptr) throw ExecutionError(what + ", and later calls may wait for it");
    auto again =
        compile(*shared_->api, shared_->core.get(), method.model.get(), method.input_names);
    const std::lock_guard compiled_lock(method.mutex);
    // Another call that was stopped may have replaced it already.
    if (method.compiled == busy) method.compiled.swap(again);
    throw ExecutionError(what + "; later calls run on a model that was compiled again");
  }

  /// A synchronous inference takes a stream even when it is busy, so it is used only when no other
  /// call can be using the stream. An asynchronous inference gets a free stream.
  void infer(const Request& request, bool alone) const {
    const Api& api = *shared_->api;
    if (request.compiled->streams == 1 || alone)
      return require(api, api.ov_infer_request_infer(request.handle.get()), "inference");
    require(api, api.ov_infer_request_start_async(request.handle.get()), "starting inference");
    require(api, api.ov_infer_request_wait(request.handle.get()), "inference");
  }

  /// Binds an input unless its binding is unchanged. The dtype is that of the signature in all
  /// calls.
  void bind(Request& request, std::size_t i, const ov_output_const_port_t* port,
            const Tensor& input) {
    Bound& bound = request.inputs[i];
    if (bound.view != nullptr && bound.data == input.data() && bound.shape == input.shape()) return;
    const Api& api = *shared_->api;
    Handle<ov_tensor_t> view = to_openvino(api, input);
    require(api,
            api.ov_infer_request_set_tensor_by_const_port(request.handle.get(), port, view.get()),
            "binding an input");
    bound = {std::move(view), input.data(), input.shape()};
  }

  /// Returns a request for one call. After an error it is not given back, and so not used again.
  std::unique_ptr<Request> take(Method& method) {
    std::shared_ptr<Compiled> compiled;
    {
      const std::lock_guard lock(method.mutex);
      compiled = method.compiled;
    }
    {
      const std::lock_guard lock(compiled->mutex);
      if (!compiled->idle.empty()) {
        std::unique_ptr<Request> request = std::move(compiled->idle.back());
        compiled->idle.pop_back();
        request->compiled = std::move(compiled);
        return request;
      }
    }
    ov_infer_request_t* handle = nullptr;
    require(*shared_->api,
            shared_->api->ov_compiled_model_create_infer_request(compiled->handle.get(), &handle),
            "making a request");
    auto request = std::make_unique<Request>();
    request->compiled = std::move(compiled);
    request->handle = {handle, shared_->api->ov_infer_request_free};
    request->inputs.resize(method.inputs.size());
    return request;
  }

  static void give_back(std::unique_ptr<Request> request) {
    const std::shared_ptr<Compiled> compiled = std::move(request->compiled);
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
      // The C API, the reader of ONNX files, and the CPU plugin.
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

  bool changes_answers(std::string_view option) const override {
    return option != "max_concurrency" && option != "streams" && option != "hint" &&
           option != "library" && option != "config.CPU_RUNTIME_CACHE_CAPACITY";
  }

  std::unique_ptr<Executable> load(const ArtifactSource& source,
                                   const LoadOptions& options) override {
    const Library& library = open_library(options);
    const Api& api = library.api;
    require_stateless(source);
    const Properties wanted = properties_of(options, usable_cores());
    const bool small = bytes_of(source) <= kSmallBytes;
    const std::optional<Properties> at_first =
        small ? with_one_stream(wanted, options) : std::nullopt;
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
        shared->methods.push_back(load_method(api, core, source, i, small, at_first.has_value()));
        shared->method_names.push_back(source.manifest.methods[i].method);
      }
      if (at_first) set_properties(api, core, wanted);
      const int first_streams = shared->methods.front()->compiled->streams;
      const int streams = at_first ? concurrent_calls(options.threads) : first_streams;
      const auto given = given_concurrency(options);
      // The gate admits a second call for each stream, which OpenVINO starts without waiting for a
      // caller to wake up.
      const int admitted = streams == 1 ? 1 : 2 * streams;
      shared->gate =
          std::make_unique<CallGate>(given == 0 ? 0 : std::max(given.value_or(0), admitted));
      shared->notes = {std::to_string(first_streams) +
                       (first_streams == 1 ? " stream" : " streams") +
                       (at_first ? ", " + std::to_string(streams) + " when long calls meet" : "")};
      if (options.optimize != Optimize::kAuto)
        shared->notes.push_back("optimize=" + std::string(name(options.optimize)) +
                                " changes nothing: OpenVINO always compiles the graph");
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
