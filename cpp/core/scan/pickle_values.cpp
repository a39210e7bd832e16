#include "core/scan/pickle_values.h"

#include <algorithm>
#include <array>

namespace isthmus::detail {
namespace {

struct StorageRow {
  std::string_view name;
  std::uint32_t item_bytes;
  std::uint32_t items_per_byte;
};

constexpr std::array<StorageRow, 23> kStorages{{
    {"BFloat16Storage", 2, 1},       {"BoolStorage", 1, 1},
    {"ByteStorage", 1, 1},           {"CharStorage", 1, 1},
    {"ComplexDoubleStorage", 16, 1}, {"ComplexFloatStorage", 8, 1},
    {"ComplexHalfStorage", 4, 1},    {"DoubleStorage", 8, 1},
    {"Float8_e4m3fnStorage", 1, 1},  {"Float8_e4m3fnuzStorage", 1, 1},
    {"Float8_e5m2Storage", 1, 1},    {"Float8_e5m2fnuzStorage", 1, 1},
    {"Float8_e8m0fnuStorage", 1, 1}, {"FloatStorage", 4, 1},
    {"HalfStorage", 2, 1},           {"IntStorage", 4, 1},
    {"LongStorage", 8, 1},           {"QInt32Storage", 4, 1},
    {"QInt8Storage", 1, 1},          {"QUInt2x4Storage", 1, 4},
    {"QUInt4x2Storage", 1, 2},       {"QUInt8Storage", 1, 1},
    {"ShortStorage", 2, 1},
}};

struct GlobalRow {
  std::string_view module, name;
  PickleGlobal::Kind kind;
};

constexpr std::array<GlobalRow, 10> kGlobals{{
    {"torch._utils", "_rebuild_tensor_v2", PickleGlobal::Kind::kRebuildTensor},
    {"torch._utils", "_rebuild_qtensor", PickleGlobal::Kind::kRebuildQuantized},
    {"collections", "OrderedDict", PickleGlobal::Kind::kOrderedDict},
    {"torch", "device", PickleGlobal::Kind::kDevice},
    {"builtins", "complex", PickleGlobal::Kind::kComplex},
    {"torch.jit._pickle", "build_intlist", PickleGlobal::Kind::kIntList},
    {"torch.jit._pickle", "build_doublelist", PickleGlobal::Kind::kFloatList},
    {"torch.jit._pickle", "build_boollist", PickleGlobal::Kind::kBoolList},
    {"torch.jit._pickle", "build_tensorlist", PickleGlobal::Kind::kTensorList},
    {"torch.jit._pickle", "restore_type_tag", PickleGlobal::Kind::kTypeTag},
}};

}  // namespace

std::optional<PickleGlobal> known_global(std::string_view module, std::string_view name) {
  PickleGlobal global;
  for (const GlobalRow& row : kGlobals) {
    if (row.module == module && row.name == name) {
      global.kind = row.kind;
      return global;
    }
  }
  if (module == "torch") {
    for (const StorageRow& row : kStorages) {
      if (row.name != name) continue;
      global.kind = PickleGlobal::Kind::kStorageType;
      global.item_bytes = row.item_bytes;
      global.items_per_byte = row.items_per_byte;
      return global;
    }
    if (name == "per_tensor_affine" || name == "per_channel_affine" ||
        name == "per_channel_affine_float_qparams") {
      global.kind = PickleGlobal::Kind::kScheme;
      global.per_channel = name != "per_tensor_affine";
      return global;
    }
    return std::nullopt;
  }
  if (module == "__torch__" || module.starts_with("__torch__.")) return global;
  return std::nullopt;
}

}  // namespace isthmus::detail
