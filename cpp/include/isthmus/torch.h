#pragma once

/// Runs models with at::Tensor, for programs that use LibTorch. Header-only, because libisthmus
/// does not depend on LibTorch; link the CMake target isthmus::torch. No data are copied.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>
#include <c10/core/Storage.h>
#include <c10/core/TensorImpl.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "isthmus/dtype.h"
#include "isthmus/error.h"
#include "isthmus/model.h"
#include "isthmus/options.h"
#include "isthmus/tensor.h"

namespace isthmus {

/// Returns the element type of LibTorch. Every DType has one.
inline at::ScalarType to_torch(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return at::kBool;
    case DType::kUInt8:
      return at::kByte;
    case DType::kInt8:
      return at::kChar;
    case DType::kUInt16:
      return at::kUInt16;
    case DType::kInt16:
      return at::kShort;
    case DType::kUInt32:
      return at::kUInt32;
    case DType::kInt32:
      return at::kInt;
    case DType::kUInt64:
      return at::kUInt64;
    case DType::kInt64:
      return at::kLong;
    case DType::kFloat16:
      return at::kHalf;
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kFloat32:
      return at::kFloat;
    case DType::kFloat64:
      return at::kDouble;
    case DType::kComplex64:
      return at::kComplexFloat;
    case DType::kComplex128:
      return at::kComplexDouble;
  }
  return at::ScalarType::Undefined;
}

/// Returns the DType; nullopt for types that isthmus does not support (quantised, 8-bit floats).
inline std::optional<DType> from_torch(at::ScalarType type) {
  switch (type) {
    case at::kBool:
      return DType::kBool;
    case at::kByte:
      return DType::kUInt8;
    case at::kChar:
      return DType::kInt8;
    case at::kUInt16:
      return DType::kUInt16;
    case at::kShort:
      return DType::kInt16;
    case at::kUInt32:
      return DType::kUInt32;
    case at::kInt:
      return DType::kInt32;
    case at::kUInt64:
      return DType::kUInt64;
    case at::kLong:
      return DType::kInt64;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kComplexFloat:
      return DType::kComplex64;
    case at::kComplexDouble:
      return DType::kComplex128;
    default:
      return std::nullopt;
  }
}

/// Returns the device of LibTorch, in which the CPU has no index.
inline c10::Device to_torch(Device device) {
  if (device.is_cpu()) return c10::Device(c10::kCPU);
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device.index));
}

/// Returns an at::Tensor with the same data and strides, which keeps the owner alive and never
/// requires a gradient. Undefined for an undefined Tensor.
inline at::Tensor to_torch(const Tensor& tensor) {
  if (!tensor.defined()) return {};
  const c10::Device device = to_torch(tensor.device());
  const auto options = at::TensorOptions().dtype(to_torch(tensor.dtype())).device(device);
  // An empty tensor may have a null pointer, which LibTorch refuses.
  if (tensor.data() == nullptr) return at::empty(tensor.shape(), options);
  using Owner = std::shared_ptr<void>;
  auto owner = tensor.owner() == nullptr ? nullptr : std::make_unique<Owner>(tensor.owner());
  const auto release = [](void* kept) { std::unique_ptr<Owner>(static_cast<Owner*>(kept)); };
  if (!tensor.strides().empty())
    return at::for_blob(tensor.data(), tensor.shape())
        .strides(tensor.strides())
        .options(options)
        .target_device(device)
        .context(owner.release(), release)
        .make_tensor();
  // What at::for_blob makes of a contiguous tensor, in a third of its instructions.
  c10::DataPtr data(tensor.data(), owner.release(), release, device);
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.nbytes(), std::move(data));
  auto blob = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(options.computeDispatchKey()), options.dtype());
  blob.unsafeGetTensorImpl()->set_sizes_contiguous(tensor.shape());
  return blob;
}

namespace detail {

/// Releases the tensor that `from_torch` keeps as a Tensor's owner.
struct ReleaseTorchTensor {
  void operator()(c10::TensorImpl* tensor) const noexcept {
    c10::raw::intrusive_ptr::decref(tensor);
  }
};

/// Returns the at::Tensor that a result was made from if it still has the same data, shape and
/// strides, else a new one with the same data. Not for inputs, because the model could resize the
/// original.
inline at::Tensor unwrap(const Tensor& tensor) {
  if (std::get_deleter<ReleaseTorchTensor>(tensor.owner()) != nullptr) {
    at::Tensor held(c10::intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>::reclaim_copy(
        static_cast<c10::TensorImpl*>(tensor.owner().get())));
    if (held.const_data_ptr() == tensor.data() && held.sizes() == tensor.shape() &&
        held.scalar_type() == to_torch(tensor.dtype()) &&
        (tensor.strides().empty() ? held.is_contiguous() : held.strides() == tensor.strides()))
      return held;
  }
  return to_torch(tensor);
}

}  // namespace detail

/// Returns an isthmus::Tensor with the same data and strides, which keeps the storage alive.
/// Gradients are dropped. Undefined for an undefined tensor.
/// @throws InvalidInput for sparse and quantised tensors, and for devices and dtypes that isthmus
/// does
///     not support.
inline Tensor from_torch(at::Tensor tensor) {
  if (!tensor.defined()) return {};
  if (tensor.layout() != at::kStrided || tensor.is_quantized())
    throw InvalidInput(
        "expected a dense tensor, got a sparse or quantised one: make it dense first (to_dense, "
        "dequantize)");
  const std::optional<DType> dtype = from_torch(tensor.scalar_type());
  if (!dtype)
    throw InvalidInput(std::string("isthmus carries no tensors of dtype ") +
                       c10::toString(tensor.scalar_type()) + ": convert it first (tensor.to)");
  const c10::Device device = tensor.device();
  if (!device.is_cpu() && !device.is_cuda())
    throw InvalidInput("expected a tensor on cpu or cuda, got one on " + device.str() +
                       ": move it first (tensor.to)");
  // The memory of lazily conjugated or negated tensors has other values.
  if (tensor.is_conj() || tensor.is_neg()) tensor = tensor.resolve_conj().resolve_neg();
  if (tensor.requires_grad()) tensor = tensor.detach();
  const Device where{device.is_cpu() ? DeviceType::kCpu : DeviceType::kCuda,
                     device.is_cpu() ? 0 : static_cast<int>(device.index())};
  const auto sizes = tensor.sizes();
  Shape strides;
  if (!tensor.is_contiguous()) strides.assign(tensor.strides().begin(), tensor.strides().end());
  void* data = tensor.data_ptr();
  Shape shape(sizes.begin(), sizes.end());
  std::shared_ptr<void> owner(tensor.unsafeReleaseTensorImpl(), detail::ReleaseTorchTensor{});
  return Tensor::wrap(data, *dtype, std::move(shape), std::move(owner), where, std::move(strides));
}

/// Inputs with names: {{"input_ids", ids}, {"attention_mask", mask}}.
using TorchInputs = std::vector<std::pair<std::string, at::Tensor>>;

/// Outputs with names, in the signature's order. An absent output is undefined.
///
///     for (const auto& [name, tensor] : outputs) …
///     const at::Tensor& logits = outputs["logits"];
class TorchOutputs {
 public:
  using Item = std::pair<std::string, at::Tensor>;

  void reserve(std::size_t count) { items_.reserve(count); }
  void add(std::string name, at::Tensor tensor) {
    items_.emplace_back(std::move(name), std::move(tensor));
  }

  /// Returns the output with this name. @throws InvalidInput that lists the names.
  [[nodiscard]] const at::Tensor& operator[](std::string_view name) const {
    std::string there;
    for (const auto& [key, tensor] : items_) {
      if (key == name) return tensor;
      there += (there.empty() ? "\"" : ", \"") + key + "\"";
    }
    throw InvalidInput("no output \"" + std::string(name) + "\"; there is " +
                       (there.empty() ? "none" : there));
  }

  [[nodiscard]] std::size_t size() const noexcept { return items_.size(); }
  [[nodiscard]] bool empty() const noexcept { return items_.empty(); }
  [[nodiscard]] auto begin() const noexcept { return items_.begin(); }
  [[nodiscard]] auto end() const noexcept { return items_.end(); }

 private:
  std::vector<Item> items_;
};

namespace detail {

/// Returns the inputs in the signature's order, absent ones undefined; nullopt when a name is
/// unknown or repeated, which the call by name reports.
inline std::optional<std::vector<Tensor>> in_order(const Signature& signature,
                                                   const TorchInputs& inputs) {
  std::vector<Tensor> ordered(signature.inputs.size());
  std::size_t matched = 0;
  for (std::size_t i = 0; i < ordered.size(); ++i)
    for (const auto& [name, tensor] : inputs)
      if (name == signature.inputs[i].name) {
        ordered[i] = from_torch(tensor);
        ++matched;
        break;
      }
  if (matched != inputs.size()) return std::nullopt;
  return ordered;
}

}  // namespace detail

/// Runs a method of a Model or a Session with at::Tensors. Scalar inputs are 0-dimensional tensors
/// (at::scalar_tensor). Outputs are on the model's device, own their memory, and do not require
/// gradients.
/// @throws InvalidInput, ExecutionError, as Model::call.
template <typename Runner>
TorchOutputs call(Runner& runner, std::string_view method, const TorchInputs& inputs,
                  const RunOptions& options = {}) {
  TorchOutputs outputs;
  if constexpr (std::is_same_v<std::remove_const_t<Runner>, Model>) {  // faster
    const auto& methods = runner.bundle().manifest().methods;
    const Signature& signature = runner.signature(method);
    if (auto ordered = detail::in_order(signature, inputs)) {
      const auto index = static_cast<std::size_t>(&signature - methods.data());
      const std::vector<Tensor> results = runner.run_ordered(*ordered, index, options);
      outputs.reserve(results.size());
      for (std::size_t i = 0; i < results.size(); ++i)
        outputs.add(signature.outputs[i].name, detail::unwrap(results[i]));
      return outputs;
    }
  }
  Inputs given;
  given.reserve(inputs.size());
  for (const auto& [name, tensor] : inputs) given.add(name, from_torch(tensor));
  for (const auto& [name, tensor] : runner.call(method, given, options))
    outputs.add(name, detail::unwrap(tensor));
  return outputs;
}

/// Runs "forward", see `call`.
template <typename Runner>
TorchOutputs run(Runner& runner, const TorchInputs& inputs, const RunOptions& options = {}) {
  return call(runner, "forward", inputs, options);
}

}  // namespace isthmus
