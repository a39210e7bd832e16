#include "engines/onnxruntime/device_copy.h"

#include <dlfcn.h>

#include <array>

#include "engines/onnxruntime/tensor_convert.h"
#include "isthmus/error.h"

namespace isthmus::onnxruntime_engine {
namespace {

/// The functions of the CUDA runtime that are needed. They are looked up at run time, because the
/// build has no CUDA headers and the CPU needs no CUDA runtime.
struct CudaRuntime {
  int (*set_device)(int) = nullptr;
  int (*copy)(void*, const void*, std::size_t, int) = nullptr;
  int (*synchronize)() = nullptr;
  const char* (*error_text)(int) = nullptr;
};

constexpr int kCopyAnyDirection = 4;  // cudaMemcpyDefault, which infers the direction

template <typename Function>
void look_up(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
}

CudaRuntime open_now() {
  void* handle = nullptr;
  for (const char* name : {"libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"}) {
    // Prefers the copy that the execution provider has loaded to the system's.
    handle = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
    if (handle == nullptr) handle = dlopen(name, RTLD_NOW);
    if (handle != nullptr) break;
  }
  CudaRuntime cuda;
  if (handle == nullptr) return cuda;
  look_up(handle, "cudaSetDevice", cuda.set_device);
  look_up(handle, "cudaMemcpy", cuda.copy);
  look_up(handle, "cudaDeviceSynchronize", cuda.synchronize);
  look_up(handle, "cudaGetErrorString", cuda.error_text);
  return cuda;
}

const CudaRuntime& cuda_runtime() {
  static const CudaRuntime cuda = open_now();
  if (cuda.set_device == nullptr || cuda.copy == nullptr || cuda.synchronize == nullptr ||
      cuda.error_text == nullptr)
    throw DeviceUnavailable(
        "the CUDA runtime (libcudart) was not found, so nothing can be copied to or from the "
        "device; install CUDA's runtime libraries");
  return cuda;
}

void require(int code, const CudaRuntime& cuda, Device device) {
  if (code != 0)
    throw DeviceUnavailable(to_string(device) + ": " + cuda.error_text(code) +
                            "; check the device with nvidia-smi");
}

Tensor empty_on(const Tensor& like, Device device, Ort::Session& session) {
  if (device.is_cpu()) return Tensor::empty(like.dtype(), like.shape());
  const Ort::MemoryInfo memory = memory_info(device);
  const auto allocator = std::make_shared<Ort::Allocator>(session, memory);
  void* data = allocator->Alloc(like.nbytes());
  std::shared_ptr<void> owner(data, [allocator](void* at) { allocator->Free(at); });
  return Tensor::wrap(data, like.dtype(), like.shape(), std::move(owner), device);
}

}  // namespace

Tensor copy_to_device(const Tensor& tensor, Device device, Ort::Session& session) {
  const CudaRuntime& cuda = cuda_runtime();
  const Device on_gpu = device.is_cuda() ? device : tensor.device();
  require(cuda.set_device(on_gpu.index), cuda, on_gpu);
  Tensor copy = empty_on(tensor, device, session);
  if (tensor.nbytes() != 0)
    require(cuda.copy(copy.data(), tensor.data(), tensor.nbytes(), kCopyAnyDirection), cuda,
            on_gpu);
  return copy;
}

void copy_on_device(const Tensor& from, const Tensor& to) {
  if (from.nbytes() == 0) return;
  const CudaRuntime& cuda = cuda_runtime();
  require(cuda.set_device(to.device().index), cuda, to.device());
  require(cuda.copy(to.data(), from.data(), from.nbytes(), kCopyAnyDirection), cuda, to.device());
}

void synchronize_device(Device device) {
  const CudaRuntime& cuda = cuda_runtime();
  require(cuda.set_device(device.index), cuda, device);
  require(cuda.synchronize(), cuda, device);
}

}  // namespace isthmus::onnxruntime_engine
