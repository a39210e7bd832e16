#include <memory>

#include "core/tensor/dlpack_abi.h"
#include "core/tensor/dtype_table.h"
#include "isthmus/error.h"
#include "isthmus/tensor.h"

namespace isthmus {
namespace {

/// Calls the deleter of a DLPack tensor exactly once, even when reading it throws.
template <typename Managed>
std::shared_ptr<Managed> own(Managed* managed) {
  if (managed == nullptr) throw InvalidInput("a null DLPack tensor: expected a managed tensor");
  return std::shared_ptr<Managed>(managed, [](Managed* p) {
    if (p->deleter != nullptr) p->deleter(p);
  });
}

DType dtype_from(dlpack::DLDataType type) {
  if (type.lanes == 1)
    for (const DTypeRow& row : kDTypes)
      if (row.dlpack_code == type.code && row.size * 8 == type.bits) return row.dtype;
  throw InvalidInput("a DLPack tensor of type code " + std::to_string(type.code) + ", " +
                     std::to_string(type.bits) + " bits, " + std::to_string(type.lanes) +
                     " lanes: expected a bool, integer, float or complex type of one lane");
}

Device device_from(dlpack::DLDevice device) {
  switch (device.type) {
    case dlpack::kCpu:
    case dlpack::kCudaHost:  // pinned memory is readable by the host
      return {};
    case dlpack::kCuda:
    case dlpack::kCudaManaged:
      return {DeviceType::kCuda, device.id};
    default:
      throw InvalidInput("a DLPack tensor on device type " + std::to_string(device.type) +
                         ": expected CPU (1) or CUDA (2)");
  }
}

Tensor adopt(const dlpack::DLTensor& tensor, std::shared_ptr<void> owner) {
  if (tensor.ndim < 0 || (tensor.ndim > 0 && tensor.shape == nullptr))
    throw InvalidInput("a DLPack tensor without a shape: expected ndim of 0 or more and its sizes");
  Shape shape(tensor.shape, tensor.shape + tensor.ndim);
  Shape strides;
  if (tensor.strides != nullptr) strides.assign(tensor.strides, tensor.strides + tensor.ndim);
  const DType dtype = dtype_from(tensor.dtype);
  const Device device = device_from(tensor.device);
  void* data =
      tensor.data == nullptr ? nullptr : static_cast<char*>(tensor.data) + tensor.byte_offset;
  return Tensor::wrap(data, dtype, std::move(shape), std::move(owner), device, std::move(strides));
}

/// The data that an exported DLPack tensor points to. Its deleter frees it.
template <typename Managed>
struct Exported {
  Managed managed{};
  Tensor tensor;
  Shape strides;

  explicit Exported(const Tensor& source) : tensor(source), strides(source.strides()) {
    if (strides.empty()) {
      // Some consumers of the 1.x protocol require strides.
      strides.resize(tensor.rank());
      std::int64_t step = 1;
      for (std::size_t i = tensor.rank(); i-- > 0;) {
        strides[i] = step;
        step *= tensor.shape()[i];
      }
    }
    const DTypeRow& row = row_of(tensor.dtype());
    const bool cpu = tensor.device().is_cpu();
    managed.tensor = {tensor.data(),
                      {cpu ? dlpack::kCpu : dlpack::kCuda, tensor.device().index},
                      static_cast<std::int32_t>(tensor.rank()),
                      {row.dlpack_code, static_cast<std::uint8_t>(row.size * 8), 1},
                      const_cast<std::int64_t*>(tensor.shape().data()),
                      strides.data(),
                      0};
    managed.context = this;
    managed.deleter = [](Managed* p) {
      std::unique_ptr<Exported> freed(static_cast<Exported*>(p->context));
    };
  }
};

template <typename Managed>
std::unique_ptr<Exported<Managed>> export_to(const Tensor& tensor) {
  if (!tensor.defined())
    throw InvalidInput("an undefined tensor cannot be handed over: expected one with data");
  return std::make_unique<Exported<Managed>>(tensor);
}

}  // namespace

Tensor Tensor::from_dlpack(dlpack::ManagedTensor* managed) {
  auto owner = own(managed);
  return adopt(managed->tensor, owner);
}

Tensor Tensor::from_dlpack(dlpack::ManagedTensorVersioned* managed) {
  auto owner = own(managed);
  if (managed->version.major != dlpack::kMajorVersion)
    throw InvalidInput("a DLPack tensor of version " + std::to_string(managed->version.major) +
                       ": expected major version 1");
  const Tensor tensor = adopt(managed->tensor, owner);
  return (managed->flags & dlpack::kReadOnly) != 0 ? tensor.as_read_only() : tensor;
}

dlpack::ManagedTensor* Tensor::to_dlpack() const {
  return &export_to<dlpack::ManagedTensor>(*this).release()->managed;
}

dlpack::ManagedTensorVersioned* Tensor::to_dlpack_versioned() const {
  auto exported = export_to<dlpack::ManagedTensorVersioned>(*this);
  exported->managed.version = {dlpack::kMajorVersion, 0};
  exported->managed.flags = read_only_ ? dlpack::kReadOnly : 0;
  return &exported.release()->managed;
}

}  // namespace isthmus
