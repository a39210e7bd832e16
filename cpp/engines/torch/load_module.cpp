#include "engines/torch/load_module.h"

#include <caffe2/serialize/versions.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/profiling_graph_executor_impl.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/cuda.h>

#include <future>
#include <optional>
#include <string_view>

#include "engines/torch/bytes_reader.h"
#include "engines/torch/cuda_options.h"
#include "engines/torch/device_constants.h"
#include "engines/torch/mapped_archive.h"
#include "engines/torch/operator_check.h"
#include "engines/torch/operator_libraries.h"
#include "engines/torch/torch_formats.h"
#include "isthmus/error.h"
#include "isthmus/scan.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

constexpr std::string_view kNoExecutor = "none";

void scan(const ArtifactSource& source, const LoadOptions& options) {
  const FileBytes& file = source.files.front();
  if (options.trust < Trust::kNative) {
    const ArchiveScan result =
        scan_torchscript(file.bytes(), allowed_namespaces(source.artifact, options));
    if (result.refused())
      throw BundleError("\"" + file.path + "\" is refused before it is loaded:\n" +
                        result.describe() +
                        "\nIf you trust where it came from as you would trust a program, load it "
                        "with trust \"native\" (--trust native)");
    constexpr auto kNewest =
        static_cast<std::int64_t>(caffe2::serialize::kMaxSupportedFileFormatVersion);
    if (result.file_format_version > kNewest)
      throw BundleError("\"" + file.path + "\" has TorchScript file format " +
                        std::to_string(result.file_format_version) + ", torch " +
                        ISTHMUS_TORCH_VERSION " reads up to " + std::to_string(kNewest) +
                        ": use a newer torch here, or export with this one");
  }
}

/// Applies the options of LibTorch's executor, which are process-wide; without options nothing
/// changes.
void apply_engine_options(const LoadOptions& options) {
  for (const auto& [key, value] : options.engine_options) {
    if (key == "executor") {
      if (value == "profiling" || value == "simple") {
        torch::jit::getExecutorMode() = true;
        torch::jit::getProfilingMode() = value == "profiling";
      } else if (value == "legacy") {
        torch::jit::getExecutorMode() = false;
      } else if (value != "default" && value != kNoExecutor) {
        throw InvalidInput("engine option executor=" + value +
                           ": expected default, none, profiling, simple or legacy");
      }
    } else if (key == "fusion") {
      if (value != "on" && value != "off")
        throw InvalidInput("engine option fusion=" + value + ": expected on or off");
      torch::jit::FusionStrategy strategy;
      if (value == "on")
        strategy = {{torch::jit::FusionBehavior::STATIC, 2},
                    {torch::jit::FusionBehavior::DYNAMIC, 10}};
      torch::jit::setFusionStrategy(strategy);
    } else if (key != "max_concurrency" && !is_cuda_option(key)) {
      throw InvalidInput("engine option \"" + key +
                         "\" is unknown to the torchscript engine; expected executor, fusion, "
                         "max_concurrency, " +
                         std::string(kCudaOptionNames));
    }
  }
}

/// Returns a note about what was done; empty when nothing was.
std::string optimize(torch::jit::Module& module, const ArtifactSource& source,
                     const LoadOptions& options, Device device) {
  // Rewrites change bits and cost load time, so the default does none.
  if (options.optimize == Optimize::kAuto || options.optimize == Optimize::kNone) return {};
  const bool inference = options.optimize == Optimize::kInference;
  const std::string name = inference ? "inference" : "freeze";
  if (source.manifest.stateful)
    throw InvalidInput("optimize \"" + name +
                       "\" would freeze the state of a stateful model; load "
                       "it with optimize \"none\"");
  if (inference && !device.is_cpu())
    throw InvalidInput("optimize \"inference\" prepacks for the CPU; on " + to_string(device) +
                       " use \"freeze\" or \"none\"");
  std::vector<std::string> preserved;
  for (const Signature& signature : source.manifest.methods)
    if (signature.method != "forward") preserved.push_back(signature.method);
  module = torch::jit::freeze(module, preserved);
  if (inference) module = torch::jit::optimize_for_inference(module, preserved);
  return "optimised at load: " + name;
}

}  // namespace

void require_device(Device device, const RuntimeContext& context) {
  if (device.is_cpu()) return;
  const std::string label = to_string(device) + " is not available: ";
  if (!context.has_cuda_libraries)
    throw DeviceUnavailable(label +
                            "this LibTorch (" ISTHMUS_TORCH_VERSION
                            ") is a CPU build; install a CUDA build of torch " +
                            ISTHMUS_TORCH_VERSION + " and build isthmus for it");
  if (!context.cuda_error.empty())
    throw DeviceUnavailable(label + "LibTorch's CUDA libraries cannot be opened: " +
                            context.cuda_error + "; install torch's CUDA packages again");
  const auto count = static_cast<int>(torch::cuda::device_count());
  if (count == 0)
    throw DeviceUnavailable(label +
                            "LibTorch sees no CUDA device; check the driver with "
                            "nvidia-smi, and CUDA_VISIBLE_DEVICES");
  if (device.index >= count)
    throw DeviceUnavailable(label + "LibTorch sees " + std::to_string(count) +
                            " CUDA device(s), counted from 0");
}

bool runs_unoptimized(const LoadOptions& options) {
  const auto executor = options.engine_options.find("executor");
  return executor == options.engine_options.end() ? options.few_calls
                                                  : executor->second == kNoExecutor;
}

LoadedModule load_module(const ArtifactSource& source, const LoadOptions& options) {
  const Device device = parse_device(options.device);
  apply_engine_options(options);
  open_op_libraries(options.op_libraries);
  // The operator check takes about as long as scanning and opening, so the two run concurrently.
  std::future<std::optional<MappedArchive>> opening =
      std::async(std::launch::async, [&]() -> std::optional<MappedArchive> {
        scan(source, options);
        return MappedArchive::open(source.files.front());
      });
  check_operators(source.artifact);
  std::optional<MappedArchive> mapped = opening.get();

  LoadedModule loaded;
  try {
    std::optional<torch::jit::Module> module;
    if (mapped) module = std::move(*mapped).load(to_torch(device));
    loaded.module = module ? std::move(*module)
                           : torch::jit::load(std::make_shared<BytesReader>(source.files.front()),
                                              to_torch(device), /*load_debug_files=*/true);
    loaded.module.eval();
  } catch (const std::exception& error) {
    throw BundleError("LibTorch " ISTHMUS_TORCH_VERSION " cannot load \"" +
                      source.files.front().path + "\": " + model_error(error) +
                      "; export the bundle with the torch that is used here");
  }
  if (device.is_cuda() && source.artifact.strategy != "script") {
    const int moved = move_device_constants(loaded.module, to_torch(device));
    if (moved != 0)
      loaded.notes.push_back("moved " + std::to_string(moved) +
                             " device literals of the trace to " + to_string(device));
  }
  const std::string optimized = optimize(loaded.module, source, options, device);
  if (!optimized.empty()) loaded.notes.push_back(optimized);
  return loaded;
}

}  // namespace isthmus::torch_engine
