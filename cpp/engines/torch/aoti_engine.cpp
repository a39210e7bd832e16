// The aoti format: AOTInductor packages, which are native code, opened by LibTorch's own loader.
#include <dlfcn.h>
#include <sys/mman.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <mutex>

#include "engines/torch/libtorch_executable.h"
#include "engines/torch/operator_check.h"
#include "engines/torch/operator_libraries.h"
#include "engines/torch/tensor_convert.h"
#include "engines/torch/torch_formats.h"
#include "engines/torch/torch_version.h"
#include "isthmus/error.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

using Loader = torch::inductor::AOTIModelPackageLoader;

/// The packages of all methods. They have no state, so all forks share them.
struct Packages {
  std::vector<std::unique_ptr<Loader>> methods;  ///< in the manifest's order
  std::unique_ptr<std::mutex> serial;  ///< null when packages have runners for concurrent calls
};

class AotiProgram final : public LibtorchProgram {
 public:
  explicit AotiProgram(std::shared_ptr<const Packages> packages) : packages_(std::move(packages)) {}

  [[nodiscard]] std::vector<Tensor> launch(std::size_t method, const Signature& signature,
                                           std::span<const Tensor> inputs) const override {
    std::vector<at::Tensor> arguments;
    arguments.reserve(inputs.size());
    for (const Tensor& input : inputs) {
      if (!input.defined())
        throw ExecutionError("\"" + signature.method +
                             "\" got an absent input: an AOTInductor package has none; pass it, "
                             "or use another artifact of the bundle");
      arguments.push_back(to_torch(input));
    }
    std::vector<Tensor> outputs;
    for (at::Tensor& output : run_package(method, std::move(arguments)))
      outputs.push_back(from_model(std::move(output)));
    return outputs;
  }

  [[nodiscard]] std::unique_ptr<LibtorchProgram> fork() const override {
    return std::make_unique<AotiProgram>(packages_);
  }

 private:
  std::vector<at::Tensor> run_package(std::size_t method, std::vector<at::Tensor> inputs) const {
    Loader& package = *packages_->methods[method];
    if (!packages_->serial) return package.boxed_run(std::move(inputs));
    const std::lock_guard lock(*packages_->serial);
    return package.boxed_run(std::move(inputs));
  }

  std::shared_ptr<const Packages> packages_;
};

/// Gives the verified bytes a path, for a loader that only opens paths. The file is anonymous, so
/// that no other process can change it.
class AnonymousFile {
 public:
  explicit AnonymousFile(const FileBytes& file) : fd_(memfd_create("isthmus-aoti", MFD_CLOEXEC)) {
    if (fd_ < 0) fail(file);
    for (std::size_t done = 0; done < file.size;) {
      const ssize_t count = ::write(fd_, file.data.get() + done, file.size - done);
      if (count < 0 && errno != EINTR) {
        ::close(fd_);
        fail(file);
      }
      if (count > 0) done += static_cast<std::size_t>(count);
    }
  }
  AnonymousFile(const AnonymousFile&) = delete;
  AnonymousFile& operator=(const AnonymousFile&) = delete;
  ~AnonymousFile() { ::close(fd_); }

  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  [[noreturn]] static void fail(const FileBytes& file) {
    throw BundleError("\"" + file.path + "\" cannot be put into an anonymous file (errno " +
                      std::to_string(errno) + "); free some memory");
  }
  int fd_;
};

/// Requires the minor version of torch that compiled the package: the C interface of LibTorch that
/// compiled code calls grows with each minor version.
void require_version(const Artifact& artifact) {
  const auto compiled_for = artifact.requires_versions.find("torch");
  if (compiled_for == artifact.requires_versions.end() ||
      minor_version(compiled_for->second) == minor_version(ISTHMUS_TORCH_VERSION))
    return;
  throw EngineUnavailable("artifact \"" + artifact.name + "\" was compiled for torch " +
                          compiled_for->second +
                          ", and this is torch " ISTHMUS_TORCH_VERSION
                          ": export it again with the torch that is used here, or use another "
                          "artifact of the bundle");
}

/// Requires a GPU of the compute capability that the package was compiled for.
void require_capability(const Artifact& artifact, Device device) {
  const auto wanted = artifact.requires_versions.find("cuda_arch");
  if (!device.is_cuda() || wanted == artifact.requires_versions.end()) return;
  // LibTorch's CUDA libraries have loaded the CUDA runtime, whose headers the build does not need.
  using GetAttribute = int (*)(int*, int, int);
  const auto attribute =
      reinterpret_cast<GetAttribute>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
  constexpr int kMajor = 75, kMinor = 76;  // cudaDevAttrComputeCapability{Major,Minor}
  int major = 0;
  int minor = 0;
  if (attribute == nullptr || attribute(&major, kMajor, device.index) != 0 ||
      attribute(&minor, kMinor, device.index) != 0)
    return;
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  if (capability != wanted->second)
    throw DeviceUnavailable("artifact \"" + artifact.name +
                            "\" is compiled for GPUs of compute "
                            "capability " +
                            wanted->second + ", and " + to_string(device) + " has " + capability +
                            "; export it again on a machine with such a GPU, or "
                            "use another artifact of the bundle");
}

/// Returns the number of runners of a package. @throws InvalidInput for a bad engine option.
std::size_t runners_of(const LoadOptions& options, int concurrency, bool records) {
  for (const auto& [key, value] : options.engine_options)
    if (key != "num_runners" && key != "max_concurrency" && !is_cuda_option(key))
      throw InvalidInput("engine option \"" + key +
                         "\" is unknown to the aoti engine; expected num_runners, "
                         "max_concurrency, " +
                         std::string(kCudaOptionNames));
  const auto given = options.engine_options.find("num_runners");
  if (given == options.engine_options.end())
    return records ? 1 : static_cast<std::size_t>(std::max(concurrency, 1));
  std::size_t runners = 0;
  const std::string& text = given->second;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), runners);
  if (error != std::errc() || end != text.data() + text.size() || runners < 1 || runners > 1024)
    throw InvalidInput("engine option num_runners=" + text + ": expected a number from 1 to 1024");
  if (records && runners != 1)
    throw InvalidInput("engine option num_runners=" + text +
                       ": a package whose calls are recorded has one runner; leave it out, or set "
                       "cuda_graphs=off");
  return runners;
}

struct RunnerOptions {
  std::size_t count = 1;
  /// The package synchronizes its runners with CUDA events, which cannot be recorded; a serial one
  /// does without, and its calls must be serialized.
  bool serial = false;
};

std::unique_ptr<Loader> open_package(const FileBytes& file, RunnerOptions runners, Device device) {
  // The loader unpacks and opens libraries through global state.
  static std::mutex& construction = *new std::mutex;  // NOLINT(cppcoreguidelines-owning-memory)
  const AnonymousFile package(file);
  const std::lock_guard lock(construction);
  try {
    return std::make_unique<Loader>(
        package.path(), "model", /*run_single_threaded=*/runners.serial, runners.count,
        device.is_cuda() ? static_cast<c10::DeviceIndex>(device.index) : c10::DeviceIndex(-1));
  } catch (const std::exception& error) {
    throw BundleError("LibTorch " ISTHMUS_TORCH_VERSION " cannot open the package \"" + file.path +
                      "\": " + model_error(error) +
                      "; export the bundle with the torch that is used here");
  }
}

}  // namespace

std::unique_ptr<Executable> load_aoti(const ArtifactSource& source, const LoadOptions& options,
                                      int concurrency) {
  const Device device = parse_device(options.device);
  if (options.trust != Trust::kNative)
    throw BundleError("artifact \"" + source.artifact.name +
                      "\" is native code; load it with trust \"native\" (--allow-native)");
  if (source.manifest.stateful || source.files.size() != source.manifest.methods.size())
    throw BundleError("artifact \"" + source.artifact.name +
                      "\": expected one package for each method of a model without state; export "
                      "the bundle again");
  require_version(source.artifact);
  require_capability(source.artifact, device);
  auto cuda = std::make_unique<CudaCalls>(source.manifest, options, device);
  const bool records = cuda->records();
  const std::size_t runners = runners_of(options, concurrency, records);
  open_op_libraries(options.op_libraries);
  check_operators(source.artifact);
  Packages packages;
  if (records) packages.serial = std::make_unique<std::mutex>();
  for (const FileBytes& file : source.files)
    packages.methods.push_back(open_package(file, {runners, records}, device));
  return make_executable(
      std::make_unique<AotiProgram>(std::make_shared<const Packages>(std::move(packages))),
      {.signatures = source.manifest.methods,
       .notes = {"native code, run because the caller allowed it: " + source.artifact.name,
                 std::to_string(runners) + " runners"},
       .device = device,
       .concurrency = concurrency,
       .cuda = std::move(cuda)});
}

}  // namespace isthmus::torch_engine
