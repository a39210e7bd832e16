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

/// Sizes, or strides in elements.
using Shape = std::vector<std::int64_t>;

/// An n-dimensional array: dtype, shape, strides, device, data, and the owner that keeps the data
/// alive. Copies are cheap and share the data. A default-constructed Tensor is undefined, which
/// means that an optional value is absent.
///
/// Thread safety: as for std::shared_ptr, different Tensor objects may be used by different
/// threads. Access to shared data is not synchronised.
class ISTHMUS_API Tensor {
 public:
  Tensor() noexcept;
  Tensor(const Tensor&);
  Tensor(Tensor&&) noexcept;
  Tensor& operator=(const Tensor&);
  Tensor& operator=(Tensor&&) noexcept;
  ~Tensor();

  /// Returns a tensor with new, uninitialised, contiguous memory on the CPU, aligned to 64 bytes.
  /// @throws InvalidInput when a size is negative, the byte size overflows, or memory runs out.
  static Tensor empty(DType dtype, Shape shape);

  /// Returns a tensor over existing memory.
  /// @param owner  kept until the last copy is destroyed; nullptr when the memory outlives all
  /// copies
  /// @param strides  in elements; empty: contiguous
  /// @throws InvalidInput when `data` is null for a non-empty shape, a size is negative, or strides
  ///     and shape differ in length.
  static Tensor wrap(void* data, DType dtype, Shape shape, std::shared_ptr<void> owner = nullptr,
                     Device device = {}, Shape strides = {});

  /// Copies `values` into new CPU memory, in the order of a contiguous tensor.
  /// @throws InvalidInput when the number of values is not that of the shape.
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

  /// Returns a 0-dimensional tensor, as scalar inputs (int64, float64, bool) are passed.
  template <typename T>
  static Tensor scalar(T value) {
    return copy_of(std::initializer_list<T>{value}, {});
  }

  /// Takes ownership of a DLPack tensor. Its deleter runs when the last copy is destroyed, or at
  /// once when the tensor is refused.
  /// @throws InvalidInput for a device, dtype, number of lanes or version that is not supported.
  static Tensor from_dlpack(dlpack::ManagedTensor* managed);
  static Tensor from_dlpack(dlpack::ManagedTensorVersioned* managed);

  /// Returns the same tensor, marked as one whose memory must not be written. A call that writes
  /// its input refuses it. DLPack carries the mark in both directions.
  [[nodiscard]] Tensor as_read_only() const;
  [[nodiscard]] bool read_only() const noexcept { return read_only_; }

  /// Returns a new DLPack tensor that shares the data. The consumer calls its deleter.
  /// @throws InvalidInput for an undefined tensor.
  [[nodiscard]] dlpack::ManagedTensor* to_dlpack() const;
  [[nodiscard]] dlpack::ManagedTensorVersioned* to_dlpack_versioned() const;

  [[nodiscard]] bool defined() const noexcept { return defined_; }
  explicit operator bool() const noexcept { return defined_; }

  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] Device device() const noexcept { return device_; }
  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const Shape& strides() const noexcept { return strides_; }  ///< empty: contiguous
  [[nodiscard]] std::size_t rank() const noexcept { return shape_.size(); }
  [[nodiscard]] std::int64_t numel() const noexcept;  ///< number of elements; 0 when undefined
  [[nodiscard]] std::size_t nbytes() const noexcept;  ///< bytes of the elements, without gaps
  [[nodiscard]] bool is_contiguous() const noexcept;

  /// Returns this tensor when it is contiguous, else a contiguous copy.
  /// @throws InvalidInput for a non-contiguous tensor that is not on the CPU.
  [[nodiscard]] Tensor contiguous() const;

  /// Returns a contiguous copy with memory of its own; an undefined tensor for an undefined one.
  /// @throws InvalidInput for a tensor that is not on the CPU.
  [[nodiscard]] Tensor clone() const;

  [[nodiscard]] void* data() const noexcept { return data_; }
  [[nodiscard]] const std::shared_ptr<void>& owner() const noexcept { return owner_; }

  /// Returns a typed pointer to contiguous CPU data.
  /// @throws InvalidInput when T is not the dtype, or the tensor is not contiguous on the CPU.
  template <typename T>
  [[nodiscard]] T* data_as() const {
    require_host(dtype_of<std::remove_const_t<T>>::value);
    return static_cast<T*>(data_);
  }

  /// Returns the element of a one-element tensor.
  /// @throws InvalidInput when there are more or fewer elements, and as `data_as`.
  template <typename T>
  [[nodiscard]] T item() const {
    require_single();
    return *data_as<T>();
  }

  /// Returns a text such as "float32[2, 14, 384] on cpu", for messages.
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
  bool read_only_ = false;
};

template <typename T>
Tensor Tensor::copy_of(std::span<const T> values, Shape shape) {
  Tensor tensor = empty(dtype_of<T>::value, std::move(shape));
  require_count(values.size(), tensor);
  T* out = static_cast<T*>(tensor.data());
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = values[i];
  return tensor;
}

/// Tensors with names, in order: the inputs or outputs of one call. Lookup is linear, which is the
/// fastest for the few values that models have.
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

  /// Reserves memory for `count` tensors.
  void reserve(std::size_t count) { items_.reserve(count); }

  /// Appends a tensor. Names are checked when a model is called, which refuses duplicates.
  void add(std::string name, Tensor tensor);

  /// Returns the first tensor with this name, or nullptr. Valid until the next `add`.
  [[nodiscard]] const Tensor* find(std::string_view name) const noexcept;

  /// Returns the first tensor with this name. @throws InvalidInput that lists the names.
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
