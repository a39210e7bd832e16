#include "isthmus/tensor.h"

#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/text.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

std::string shape_text(const Shape& shape) {
  return "[" + detail::joined(shape, [](std::int64_t size) { return std::to_string(size); }) + "]";
}

[[noreturn, gnu::noinline]] void refuse_shape(DType dtype, const Shape& shape) {
  for (const std::int64_t size : shape)
    if (size < 0)
      throw InvalidInput("shape " + shape_text(shape) + ": size " + std::to_string(size) +
                         " is negative; expected sizes of 0 or more");
  throw InvalidInput("shape " + shape_text(shape) + " of " + std::string(name(dtype)) +
                     " is larger than any memory");
}

/// Returns the bytes of a contiguous tensor. @throws InvalidInput for a negative size or overflow.
std::size_t checked_bytes(DType dtype, const Shape& shape) {
  std::size_t bytes = size_of(dtype);
  bool empty = false;
  bool negative = false;
  bool overflow = false;
  for (const std::int64_t size : shape) {
    negative |= size < 0;
    empty |= size == 0;
    overflow |= __builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes) ||
                bytes > static_cast<std::size_t>(PTRDIFF_MAX);
  }
  if (negative || (overflow && !empty)) refuse_shape(dtype, shape);
  return empty ? 0 : bytes;
}

/// Copies a strided block into contiguous memory, the last axis innermost.
void copy_strided(const char* from, char* to, const Shape& shape, const Shape& strides,
                  std::size_t item, std::size_t axis, std::size_t& written) {
  const std::int64_t step = strides[axis] * static_cast<std::int64_t>(item);
  for (std::int64_t i = 0; i < shape[axis]; ++i, from += step) {
    if (axis + 1 == shape.size()) {
      std::memcpy(to + written, from, item);
      written += item;
    } else {
      copy_strided(from, to, shape, strides, item, axis + 1, written);
    }
  }
}

}  // namespace

Tensor::Tensor() noexcept = default;
Tensor::Tensor(const Tensor&) = default;
Tensor::Tensor(Tensor&&) noexcept = default;
Tensor& Tensor::operator=(const Tensor&) = default;
Tensor& Tensor::operator=(Tensor&&) noexcept = default;
Tensor::~Tensor() = default;

Tensor Tensor::empty(DType dtype, Shape shape) {
  constexpr std::size_t kAlignment = 64;
  const std::size_t bytes = checked_bytes(dtype, shape);
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = std::move(shape);
  tensor.defined_ = true;
  // Aligned here, because aligned_alloc takes several times as long as malloc.
  void* memory = std::malloc(bytes + kAlignment);
  if (memory == nullptr)
    throw InvalidInput("no memory for " + std::to_string(bytes) + " bytes of shape " +
                       shape_text(tensor.shape_));
  tensor.owner_ = std::shared_ptr<void>(memory, std::free);
  std::size_t space = bytes + kAlignment;
  tensor.data_ = std::align(kAlignment, bytes, memory, space);
  return tensor;
}

Tensor Tensor::wrap(void* data, DType dtype, Shape shape, std::shared_ptr<void> owner,
                    Device device, Shape strides) {
  const std::size_t bytes = checked_bytes(dtype, shape);
  if (data == nullptr && bytes != 0)
    throw InvalidInput("null data for a tensor of shape " + shape_text(shape) +
                       ": expected a pointer to " + std::to_string(bytes) + " bytes");
  if (!strides.empty() && strides.size() != shape.size())
    throw InvalidInput("strides " + shape_text(strides) + " for shape " + shape_text(shape) +
                       ": expected one stride for each size");
  Tensor tensor;
  tensor.data_ = data;
  tensor.owner_.swap(owner);
  tensor.shape_.swap(shape);
  tensor.strides_.swap(strides);
  tensor.device_ = device;
  tensor.dtype_ = dtype;
  tensor.defined_ = true;
  return tensor;
}

Tensor Tensor::as_read_only() const {
  Tensor tensor = *this;
  tensor.read_only_ = true;
  return tensor;
}

std::int64_t Tensor::numel() const noexcept {
  std::int64_t count = defined_ ? 1 : 0;
  for (const std::int64_t size : shape_) count *= size;
  return count;
}

std::size_t Tensor::nbytes() const noexcept {
  return static_cast<std::size_t>(numel()) * size_of(dtype_);
}

bool Tensor::is_contiguous() const noexcept {
  if (strides_.empty()) return true;
  std::int64_t expected = 1;
  for (std::size_t i = shape_.size(); i-- > 0;) {
    if (shape_[i] == 0) return true;
    // The stride of an axis of size 1 is never used.
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

Tensor Tensor::contiguous() const {
  if (is_contiguous()) return *this;
  if (!device_.is_cpu())
    throw InvalidInput("a non-contiguous tensor " + describe() +
                       " cannot be copied here; expected a contiguous one: call contiguous() on it "
                       "before it is handed over");
  Tensor copy = empty(dtype_, shape_);
  std::size_t written = 0;
  copy_strided(static_cast<const char*>(data_), static_cast<char*>(copy.data_), shape_, strides_,
               size_of(dtype_), 0, written);
  return copy;
}

Tensor Tensor::clone() const {
  const Tensor source = contiguous();
  if (!defined_ || source.data() != data_) return source;
  if (!device_.is_cpu())
    throw InvalidInput("expected a tensor on cpu to copy, got " + describe() +
                       "; transfer it with Model::transfer");
  Tensor copy = empty(dtype_, shape_);
  if (nbytes() != 0) std::memcpy(copy.data_, data_, nbytes());
  return copy;
}

std::string Tensor::describe() const {
  if (!defined_) return "an undefined tensor";
  return std::string(name(dtype_)) + shape_text(shape_) + " on " + to_string(device_);
}

void Tensor::require_host(DType dtype) const {
  if (defined_ && dtype == dtype_ && device_.is_cpu() && is_contiguous()) return;
  throw InvalidInput("expected contiguous " + std::string(name(dtype)) + " data on cpu, got " +
                     (is_contiguous() ? "" : "non-contiguous ") + describe());
}

void Tensor::require_single() const {
  if (numel() != 1) throw InvalidInput("expected a tensor of one element, got " + describe());
}

void Tensor::require_count(std::size_t values, const Tensor& tensor) {
  if (values != static_cast<std::size_t>(tensor.numel()))
    throw InvalidInput("got " + std::to_string(values) + " values for " + tensor.describe() +
                       ", expected " + std::to_string(tensor.numel()));
}

NamedTensors::NamedTensors() = default;
NamedTensors::NamedTensors(std::initializer_list<Item> items) : items_(items) {}
NamedTensors::NamedTensors(const NamedTensors&) = default;
NamedTensors::NamedTensors(NamedTensors&&) noexcept = default;
NamedTensors& NamedTensors::operator=(const NamedTensors&) = default;
NamedTensors& NamedTensors::operator=(NamedTensors&&) noexcept = default;
NamedTensors::~NamedTensors() = default;

void NamedTensors::add(std::string name, Tensor tensor) {
  items_.emplace_back(std::move(name), std::move(tensor));
}

const Tensor* NamedTensors::find(std::string_view name) const noexcept {
  for (const auto& [key, tensor] : items_)
    if (key == name) return &tensor;
  return nullptr;
}

const Tensor& NamedTensors::at(std::string_view name) const {
  if (const Tensor* tensor = find(name)) return *tensor;
  const auto key = [](const Item& item) { return detail::in_quotes(item.first); };
  throw InvalidInput("no tensor " + detail::in_quotes(name) + "; there is " +
                     (items_.empty() ? "none" : detail::joined(items_, key)));
}

}  // namespace isthmus
