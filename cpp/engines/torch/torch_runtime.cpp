// The entry of libisthmus_libtorch.so, which all LibTorch engines open.
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <charconv>
#include <string_view>

#include "engines/call_gate.h"
#include "engines/torch/cuda_device.h"
#include "engines/torch/load_module.h"
#include "engines/torch/mapped_archive.h"
#include "engines/torch/runtime.h"
#include "engines/torch/thread_budget.h"
#include "engines/torch/torch_formats.h"
#include "isthmus/error.h"

namespace isthmus::torch_engine {

namespace {

/// Moves the last line of an error of the TorchScript interpreter, the cause, before its traceback.
std::string cause_first(const std::string& text) {
  constexpr std::string_view kInterpreter = "The following operation failed in the TorchScript";
  const auto traceback = text.find('\n');
  const auto cause = text.rfind('\n');
  if (!text.starts_with(kInterpreter) || traceback == cause) return text;
  return text.substr(cause + 1) + text.substr(traceback, cause - traceback);
}

}  // namespace

std::string model_error(const std::exception& error) {
  std::string text = error.what();
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error))
    text = torch_error->what_without_backtrace();
  const auto end = text.find_last_not_of(" \n");
  return with_archive_names(cause_first(end == std::string::npos ? text : text.substr(0, end + 1)));
}

namespace {

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
    const std::string missing = no_cuda_device();
    return {"intra-operator threads: " + std::to_string(at::get_num_threads()),
            "CUDA graphs: " + (missing.empty() ? "built in" : "not built in, " + missing)};
  }

  [[nodiscard]] std::unique_ptr<Executable> load(const ArtifactSource& source,
                                                 const LoadOptions& options) const override {
    const Device device = parse_device(options.device);
    set_thread_budget(options.threads);
    join_thread_budget();
    require_device(device, context_);
    const int concurrency = call_limit(options, device, at::get_num_threads());
    const std::string& format = source.artifact.format;
    if (format == "aoti") return load_aoti(source, options, concurrency);
    if (format == "exported") return load_exported(source, options, concurrency);
    return load_torchscript(source, options, concurrency);
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

extern "C" ISTHMUS_API const char* isthmus_release() {
  return ISTHMUS_VERSION;
}
