#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "isthmus/device.h"
#include "isthmus/dtype.h"
#include "isthmus/export.h"

namespace isthmus {

namespace dlpack {
struct ManagedTensor;           // binary layout of DLPack's DLManagedTensor
struct ManagedTensorVersioned;  // binary layout of DLPack's DLManagedTensorVersioned
}  // namespace dlpack

/// Sizes or strides in elements.
using Shape = std::vector<std::int64_t>;

/// An n-dimensional array: dtype, shape, strides, device, data, and the owner that keeps the data
/// alive. A cheap value: copies share the data. A default-constructed Tensor is undefined and
/// stands for an absent optional value.
///
/// Thread safety: as std::shared_ptr; distinct Tensors may be used from distinct threads.
class ISTHMUS_API Tensor {
 public:
  Tensor() noexcept;
  Tensor(const Tensor&);
  Tensor(Tensor&&) noexcept;
  Tensor& operator=(const Tensor&);
  Tensor& operator=(Tensor&&) noexcept;
  ~Tensor();

  /// New, uninitialised, contiguous memory on the CPU, 64-byte aligned, owned by the tensor.
  /// @throws InvalidInput when a size is negative or the byte size overflows.
  static Tensor empty(DType dtype, Shape shape);

  /// A tensor over memory that somebody else owns. `owner` is kept until the last copy dies; pass
  /// nullptr only when the memory outlives every copy. Empty `strides` means contiguous.
  /// @throws InvalidInput when `data` is null for a non-empty shape, a size is negative, or strides
  /// and shape differ in length.
  static Tensor wrap(void* data, DType dtype, Shape shape, std::shared_ptr<void> owner = nullptr,
                     Device device = {}, Shape strides = {});

  /// Copies `values` into new CPU memory; the number of values must match the shape.
  template <typename T>
  static Tensor copy_of(std::span<const T> values, Shape shape);
  template <typename T>
  static Tensor copy_of(const std::vector<T>& values, Shape shape) {
    return copy_of(std::span<const T>(values), std::move(shape));
  }
  template <typename T>
  static Tensor copy_of(std::initializer_list<T> values, Shape shape) {
    return copy_of(std::span<const T>(values.begin(), values.size()), std::move(shape));
  }

  /// A 0-dimensional tensor: how scalar inputs (int64, float64, bool) are passed.
  template <typename T>
  static Tensor scalar(T value) {
    return copy_of(std::initializer_list<T>{value}, {});
  }

  /// Takes ownership of a DLPack tensor (its deleter runs when the last copy dies).
  /// @throws InvalidInput for a device, dtype or lane count that isthmus does not carry.
  static Tensor from_dlpack(dlpack::ManagedTensor* managed);
  static Tensor from_dlpack(dlpack::ManagedTensorVersioned* managed);

  /// A new DLPack tensor sharing this one's data; the consumer calls its deleter.
  [[nodiscard]] dlpack::ManagedTensor* to_dlpack() const;
  [[nodiscard]] dlpack::ManagedTensorVersioned* to_dlpack_versioned() const;

  [[nodiscard]] bool defined() const noexcept { return defined_; }
  explicit operator bool() const noexcept { return defined_; }

  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] Device device() const noexcept { return device_; }
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const Shape& strides() const noexcept { return strides_; }  ///< empty: contiguous
  [[nodiscard]] std::size_t rank() const noexcept { return shape_.size(); }
  [[nodiscard]] std::int64_t numel() const noexcept;
  [[nodiscard]] std::size_t nbytes() const noexcept;
  [[nodiscard]] bool is_contiguous() const noexcept;

  /// This tensor when it is contiguous, else a contiguous copy (CPU only).
  /// @throws InvalidInput for a non-contiguous tensor that is not on the CPU.
  [[nodiscard]] Tensor contiguous() const;

  [[nodiscard]] void* data() const noexcept { return data_; }
  [[nodiscard]] const std::shared_ptr<void>& owner() const noexcept { return owner_; }

  /// Typed pointer to contiguous CPU data.
  /// @throws InvalidInput when T is not the dtype, or the tensor is not contiguous on the CPU.
  template <typename T>
  [[nodiscard]] T* data_as() const {
    require_host(dtype_of<std::remove_const_t<T>>::value);
    return static_cast<T*>(data_);
  }

  /// The single element of a one-element tensor.
  template <typename T>
  [[nodiscard]] T item() const {
    require_single();
    return *data_as<T>();
  }

  /// "float32[2, 14, 384] on cpu", for messages.
  [[nodiscard]] std::string describe() const;

 private:
  void require_host(DType dtype) const;
  void require_single() const;
  static void require_count(std::size_t values, const Tensor& tensor);

  void* data_ = nullptr;
  std::shared_ptr<void> owner_;
  Shape shape_;
  Shape strides_;
  Device device_;
  DType dtype_ = DType::kFloat32;
  bool defined_ = false;
};

template <typename T>
Tensor Tensor::copy_of(std::span<const T> values, Shape shape) {
  Tensor tensor = empty(dtype_of<T>::value, std::move(shape));
  require_count(values.size(), tensor);
  T* out = static_cast<T*>(tensor.data());
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = values[i];
  return tensor;
}

/// Tensors by name, in order: the inputs or outputs of one call. Lookup is linear, which is the
/// fastest for the handful of values that a model has.
class ISTHMUS_API NamedTensors {
 public:
  using Item = std::pair<std::string, Tensor>;

  NamedTensors();
  NamedTensors(std::initializer_list<Item> items);
  NamedTensors(const NamedTensors&);
  NamedTensors(NamedTensors&&) noexcept;
  NamedTensors& operator=(const NamedTensors&);
  NamedTensors& operator=(NamedTensors&&) noexcept;
  ~NamedTensors();

  /// Makes room for so many.
  void reserve(std::size_t count) { items_.reserve(count); }

  /// Appends; names are not checked here but at the call (a doubled name is refused there).
  void add(std::string name, Tensor tensor);

  /// nullptr when there is none.
  [[nodiscard]] const Tensor* find(std::string_view name) const noexcept;

  /// @throws InvalidInput naming what there is, when there is no such name.
  [[nodiscard]] const Tensor& at(std::string_view name) const;
  const Tensor& operator[](std::string_view name) const { return at(name); }

  [[nodiscard]] std::size_t size() const noexcept { return items_.size(); }
  [[nodiscard]] bool empty() const noexcept { return items_.empty(); }
  [[nodiscard]] auto begin() const noexcept { return items_.begin(); }
  [[nodiscard]] auto end() const noexcept { return items_.end(); }

 private:
  std::vector<Item> items_;
};

using Inputs = NamedTensors;
using Outputs = NamedTensors;

}  // namespace isthmus
