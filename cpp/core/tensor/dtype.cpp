#include "isthmus/dtype.h"

#include "core/tensor/dtype_table.h"

namespace isthmus {

static_assert(
    [] {
      for (std::size_t i = 0; i < kDTypes.size(); ++i)
        if (static_cast<std::size_t>(kDTypes[i].dtype) != i) return false;
      return true;
    }(),
    "the table is indexed by DType");

std::string_view name(DType dtype) noexcept {
  return row_of(dtype).name;
}

std::size_t size_of(DType dtype) noexcept {
  return row_of(dtype).size;
}

std::optional<DType> parse_dtype(std::string_view name) noexcept {
  for (const DTypeRow& row : kDTypes)
    if (row.name == name) return row.dtype;
  return std::nullopt;
}

bool is_floating(DType dtype) noexcept {
  return row_of(dtype).floating;
}

}  // namespace isthmus
