#include "engines/onnxruntime/session_options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "isthmus/error.h"

namespace isthmus::onnxruntime_engine {
namespace {

using Texts = std::map<std::string, std::string>;

struct Provider {
  const char* name;      ///< the name in isthmus
  const char* official;  ///< the name in ONNX Runtime
  bool on_cuda;          ///< tensors are on the CUDA device
};
constexpr std::array<Provider, 4> kProviders{{
    {"cpu", "CPUExecutionProvider", false},
    {"cuda", "CUDAExecutionProvider", true},
    {"tensorrt", "TensorrtExecutionProvider", true},
    {"openvino", "OpenVINOExecutionProvider", false},
}};

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

[[noreturn]] void refuse(const std::string& key, const std::string& value,
                         const std::string& expected) {
  throw InvalidInput("engine option " + key + "=" + value + ": expected " + expected);
}

int positive(const std::string& key, const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1)
    refuse(key, text, "a positive number");
  return value;
}

GraphOptimizationLevel level_of(const std::string& text) {
  if (text == "none") return ORT_DISABLE_ALL;
  if (text == "basic") return ORT_ENABLE_BASIC;
  if (text == "extended") return ORT_ENABLE_EXTENDED;
  if (text == "all") return ORT_ENABLE_ALL;
  refuse("graph_optimization", text, "none, basic, extended or all");
}

GraphOptimizationLevel default_level(Optimize optimize) {
  // "all", which fuses operators and changes layouts for this processor, is ONNX Runtime's default.
  return optimize == Optimize::kNone     ? ORT_DISABLE_ALL
         : optimize == Optimize::kFreeze ? ORT_ENABLE_BASIC
                                         : ORT_ENABLE_ALL;
}

/// Applies an engine option; ignores those of the provider. @throws InvalidInput.
void apply(Ort::SessionOptions& session, const std::string& key, const std::string& value) {
  if (key == "graph_optimization") {
    session.SetGraphOptimizationLevel(level_of(value));
  } else if (key == "inter_op_threads") {
    session.SetInterOpNumThreads(positive(key, value));
  } else if (key == "execution_mode") {
    if (value != "sequential" && value != "parallel") refuse(key, value, "sequential or parallel");
    session.SetExecutionMode(value == "parallel" ? ORT_PARALLEL : ORT_SEQUENTIAL);
  } else if (key == "memory_arena") {
    if (value != "on" && value != "off") refuse(key, value, "on or off");
    if (value == "off") session.DisableCpuMemArena();
  } else if (key.starts_with("config.")) {
    session.AddConfigEntry(key.substr(7).c_str(), value.c_str());
  } else if (key != "library" && key != "provider" && key != "max_concurrency" &&
             !key.starts_with("provider.")) {
    throw InvalidInput("engine option \"" + key +
                       "\" is unknown to the onnxruntime engine; expected library, provider, "
                       "provider.KEY, graph_optimization, inter_op_threads, execution_mode, "
                       "memory_arena, max_concurrency or config.KEY");
  }
}

const Provider& choose_provider(const LoadOptions& options, Device device) {
  const auto given = options.engine_options.find("provider");
  const std::string wanted = given != options.engine_options.end() ? given->second
                             : device.is_cuda()                    ? "cuda"
                                                                   : "cpu";
  for (const Provider& provider : kProviders) {
    if (wanted != provider.name) continue;
    if (provider.on_cuda != device.is_cuda())
      throw InvalidInput("engine option provider=" + wanted + " works on " +
                         (provider.on_cuda ? "cuda" : "the cpu") + ", the model is loaded on " +
                         to_string(device) + "; pass the device that fits");
    return provider;
  }
  refuse("provider", wanted, "cpu, cuda, tensorrt or openvino");
}

Texts provider_options(const LoadOptions& options) {
  constexpr std::string_view kPrefix = "provider.";
  Texts own;
  for (const auto& [key, value] : options.engine_options)
    if (key.starts_with(kPrefix)) own[key.substr(kPrefix.size())] = value;
  return own;
}

/// Options as two lists of C strings that point into `own`.
struct Entries {
  explicit Entries(const Texts& own) {
    for (const auto& [key, value] : own) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
  }
  std::vector<const char*> keys;
  std::vector<const char*> values;
};

// The options of CUDA and TensorRT are objects that the library creates and frees.
void append_cuda(Ort::SessionOptions& session, const Texts& own) {
  const OrtApi& api = Ort::GetApi();
  OrtCUDAProviderOptionsV2* raw = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&raw));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> held(
      raw, api.ReleaseCUDAProviderOptions);
  const Entries entries(own);
  Ort::ThrowOnError(api.UpdateCUDAProviderOptions(raw, entries.keys.data(), entries.values.data(),
                                                  entries.keys.size()));
  session.AppendExecutionProvider_CUDA_V2(*raw);
}

void append_tensorrt(Ort::SessionOptions& session, const Texts& own) {
  const OrtApi& api = Ort::GetApi();
  OrtTensorRTProviderOptionsV2* raw = nullptr;
  Ort::ThrowOnError(api.CreateTensorRTProviderOptions(&raw));
  const std::unique_ptr<OrtTensorRTProviderOptionsV2, decltype(api.ReleaseTensorRTProviderOptions)>
      held(raw, api.ReleaseTensorRTProviderOptions);
  const Entries entries(own);
  Ort::ThrowOnError(api.UpdateTensorRTProviderOptions(raw, entries.keys.data(),
                                                      entries.values.data(), entries.keys.size()));
  session.AppendExecutionProvider_TensorRT_V2(*raw);
}

void append_provider(SessionSetup& setup, const Provider& provider, Texts own, Device device,
                     const Library& library) {
  setup.provider = provider.name;
  if (setup.provider == "cpu") {
    if (!own.empty())
      throw InvalidInput("engine option provider." + own.begin()->first +
                         ": the cpu provider has no options; name the provider too");
    return;
  }
  const std::string where = "ONNX Runtime " + library.version + " in " + library.path.string();
  const std::vector<std::string> available = available_providers();
  if (std::find(available.begin(), available.end(), provider.name) == available.end())
    throw DeviceUnavailable("the execution provider " + setup.provider + " is not part of " +
                            where + ", which has " + joined(available) +
                            "; install the onnxruntime build that brings it (for CUDA and TensorRT "
                            "`pip install onnxruntime-gpu`)");
  if (provider.on_cuda) own.emplace("device_id", std::to_string(device.index));
  try {
    if (setup.provider == "cuda") append_cuda(setup.options, own);
    if (setup.provider == "tensorrt") {
      append_tensorrt(setup.options, own);
      // Operators that TensorRT does not support run on CUDA, on the same device.
      append_cuda(setup.options, {{"device_id", own["device_id"]}});
    }
    if (setup.provider == "openvino")
      setup.options.AppendExecutionProvider_OpenVINO_V2({own.begin(), own.end()});
  } catch (const Ort::Exception& error) {
    throw DeviceUnavailable("the execution provider " + setup.provider + " of " + where +
                            " cannot run on " + to_string(device) + ": " + error.what() +
                            "; check the driver and the libraries that this provider needs");
  }
  setup.notes.push_back("execution provider: " + setup.provider +
                        "; operators that it lacks run on the CPU "
                        "(config.session.disable_cpu_ep_fallback=1 refuses that)");
}

}  // namespace

SessionSetup session_setup(const LoadOptions& options, Device device, const Library& library) {
  SessionSetup setup;
  setup.options.SetGraphOptimizationLevel(default_level(options.optimize));
  if (options.threads > 0) setup.options.SetIntraOpNumThreads(options.threads);
  // Packing weights makes each call faster and takes as long as several calls. The entry must not
  // be given twice: ONNX Runtime would log a warning before it has a logger, which ends the
  // process.
  if (options.few_calls && !options.engine_options.contains("config.session.disable_prepacking"))
    setup.options.AddConfigEntry("session.disable_prepacking", "1");
  for (const auto& [key, value] : options.engine_options) apply(setup.options, key, value);
  append_provider(setup, choose_provider(options, device), provider_options(options), device,
                  library);
  return setup;
}

std::vector<std::string> available_providers() {
  const std::vector<std::string> official = Ort::GetAvailableProviders();
  std::vector<std::string> names;
  for (const Provider& provider : kProviders)
    if (std::find(official.begin(), official.end(), provider.official) != official.end())
      names.emplace_back(provider.name);
  return names;
}

}  // namespace isthmus::onnxruntime_engine
