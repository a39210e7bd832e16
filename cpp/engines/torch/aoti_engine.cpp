// The aoti format: AOTInductor packages, which are native code, on LibTorch's own loader.
#include <dlfcn.h>
#include <sys/mman.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <mutex>

#include "engines/call_gate.h"
#include "engines/lent_memory.h"
#include "engines/torch/cuda_calls.h"
#include "engines/torch/in_call.h"
#include "engines/torch/load_module.h"
#include "engines/torch/operator_check.h"
#include "engines/torch/tensor_convert.h"
#include "engines/torch/thread_budget.h"
#include "engines/torch/torch_formats.h"
#include "engines/torch/transfer.h"
#include "isthmus/error.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {
namespace {

using Loader = torch::inductor::AOTIModelPackageLoader;

/// What all forks share: a package has no state, and runners of its own for callers at once.
struct Shared {
  std::vector<std::unique_ptr<Loader>> methods;
  std::vector<Signature> signatures;
  std::vector<std::string> notes;
  Device device;
  std::unique_ptr<CallGate> gate;
  std::unique_ptr<CudaCalls> cuda;
  /// Null where the packages have runners for callers at once.
  std::unique_ptr<std::mutex> one_at_a_time;
};

class AotiExecutable final : public Executable {
 public:
  explicit AotiExecutable(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  std::vector<Tensor> run(std::size_t method, std::span<const Tensor> inputs) override {
    const InCall in_call(*shared_->gate, shared_->device);
    return shared_->cuda->run(method, inputs, [&](auto given) { return launch(method, given); });
  }

  [[nodiscard]] bool prepares() const override { return shared_->cuda->records(); }

  bool prepare(std::size_t method, std::span<const Tensor> inputs) override {
    const InCall in_call(*shared_->gate, shared_->device);
    return shared_->cuda->prepare(method, shared_->signatures[method], inputs,
                                  [&](auto given) { return launch(method, given); });
  }

  [[nodiscard]] std::unique_ptr<Executable> fork() const override {
    return std::make_unique<AotiExecutable>(shared_);
  }

  Tensor transfer(const Tensor& tensor, Device device) override {
    return transfer_to(tensor, device);
  }

  void synchronize() override { wait_for_device(shared_->device); }

  [[nodiscard]] std::vector<std::string> notes() const override {
    std::vector<std::string> notes = shared_->notes;
    for (std::string& note : shared_->cuda->notes()) notes.push_back(std::move(note));
    return notes;
  }

 private:
  /// Runs the method kernel by kernel.
  std::vector<Tensor> launch(std::size_t method, std::span<const Tensor> inputs) const {
    const std::string& name = shared_->signatures[method].method;
    std::vector<at::Tensor> given;
    given.reserve(inputs.size());
    for (const Tensor& input : inputs) {
      if (!input.defined())
        throw ExecutionError("\"" + name +
                             "\" got an absent input: an AOTInductor package has none; pass it, "
                             "or use another artifact of the bundle");
      given.push_back(to_torch(input));
    }
    try {
      std::vector<Tensor> outputs;
      for (at::Tensor& output : run_package(method, std::move(given)))
        outputs.push_back(from_model(std::move(output)));
      disown_inputs(outputs, inputs, copy_of);
      return outputs;
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw ExecutionError("\"" + name + "\" failed: " + model_error(error));
    }
  }

  std::vector<at::Tensor> run_package(std::size_t method, std::vector<at::Tensor> inputs) const {
    Loader& package = *shared_->methods[method];
    if (!shared_->one_at_a_time) return package.boxed_run(std::move(inputs));
    const std::lock_guard lock(*shared_->one_at_a_time);
    return package.boxed_run(std::move(inputs));
  }

  std::shared_ptr<Shared> shared_;
};

/// The verified bytes under a path, for a loader that only opens paths: an anonymous file, which
/// nobody else can change.
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

/// "2.13" of "2.13.0+cpu".
std::string minor_version(const std::string& version) {
  const auto dot = version.find('.');
  return dot == std::string::npos ? version : version.substr(0, version.find('.', dot + 1));
}

/// Compiled code calls LibTorch's C interface, of which each minor version adds to the last.
void require_version(const Artifact& artifact) {
  const auto made = artifact.requires_versions.find("torch");
  if (made == artifact.requires_versions.end() ||
      minor_version(made->second) == minor_version(ISTHMUS_TORCH_VERSION))
    return;
  throw EngineUnavailable("artifact \"" + artifact.name + "\" was compiled for torch " +
                          made->second +
                          ", and this is torch " ISTHMUS_TORCH_VERSION
                          ": export it again with the torch that is used here, or use another "
                          "artifact of the bundle");
}

/// A package holds kernels for one generation of GPUs.
void require_capability(const Artifact& artifact, Device device) {
  const auto wanted = artifact.requires_versions.find("cuda_arch");
  if (!device.is_cuda() || wanted == artifact.requires_versions.end()) return;
  // LibTorch's CUDA libraries have loaded the CUDA runtime; its headers are no part of the build.
  using GetAttribute = int (*)(int*, int, int);
  const auto attribute =
      reinterpret_cast<GetAttribute>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
  constexpr int kMajor = 75, kMinor = 76;  // cudaDevAttrComputeCapability{Major,Minor}
  int major = 0;
  int minor = 0;
  if (attribute == nullptr || attribute(&major, kMajor, device.index) != 0 ||
      attribute(&minor, kMinor, device.index) != 0)
    return;
  const std::string here = std::to_string(major) + "." + std::to_string(minor);
  if (here != wanted->second)
    throw DeviceUnavailable("artifact \"" + artifact.name +
                            "\" is compiled for GPUs of compute "
                            "capability " +
                            wanted->second + ", and " + to_string(device) + " has " + here +
                            "; export it again on a machine with such a GPU, or "
                            "use another artifact of the bundle");
}

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

/// `alone`: the package makes no events to keep its runners apart, which cannot be recorded; calls
/// must take turns.
std::unique_ptr<Loader> open_package(const FileBytes& file, std::size_t runners, bool alone,
                                     Device device) {
  // The loader unpacks and opens libraries through state of the whole process.
  static std::mutex& construction = *new std::mutex;  // NOLINT(cppcoreguidelines-owning-memory)
  const AnonymousFile package(file);
  const std::lock_guard lock(construction);
  try {
    return std::make_unique<Loader>(
        package.path(), "model", /*run_single_threaded=*/alone, runners,
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
  auto shared = std::make_shared<Shared>();
  shared->cuda = std::make_unique<CudaCalls>(source.manifest, options, device);
  const bool records = shared->cuda->records();
  const std::size_t runners = runners_of(options, concurrency, records);
  open_op_libraries(options.op_libraries);
  if (records) shared->one_at_a_time = std::make_unique<std::mutex>();
  shared->device = device;
  shared->gate = std::make_unique<CallGate>(concurrency);
  shared->signatures = source.manifest.methods;
  for (const FileBytes& file : source.files)
    shared->methods.push_back(open_package(file, runners, records, device));
  shared->notes = {"native code, run because the caller allowed it: " + source.artifact.name,
                   std::to_string(runners) + " runners"};
  return std::make_unique<AotiExecutable>(std::move(shared));
}

}  // namespace isthmus::torch_engine
