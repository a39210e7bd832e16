#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace isthmus::detail {

/// What a global of a pickle stands for.
struct PickleGlobal {
  enum class Kind : std::uint8_t {
    kClass,        ///< of the archive, or of packed weights
    kStorageType,  ///< torch.FloatStorage
    kScheme,       ///< of quantisation
    kRebuildTensor,
    kRebuildQuantized,
    kOrderedDict,
    kDevice,
    kComplex,
    kIntList,
    kFloatList,
    kBoolList,
    kTensorList,
    kTypeTag,
  };
  Kind kind = Kind::kClass;
  std::uint32_t item_bytes = 0;      ///< of a storage type
  std::uint32_t items_per_byte = 1;  ///< of a packed quantised type
  bool per_channel = false;          ///< of a scheme
};

/// The globals that LibTorch's unpickler builds; nullopt for any other.
std::optional<PickleGlobal> known_global(std::string_view module, std::string_view name);

/// The shadow of a pickled value: small and flat, since the tables of source positions hold
/// hundreds of thousands. Children are indices, so nothing here recurses.
struct PickleValue {
  enum class Kind : std::uint8_t {
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kTuple,
    kList,
    kDict,
    kGlobal,
    kStorage,
    kTensor,
    kObject,
    kOther,  ///< a device, a complex number, an enumerator
  };
  Kind kind = Kind::kNone;
  std::uint32_t depth = 0;
  std::int64_t integer = 0;  ///< kBool, kInt; kStorage, kTensor: elements; kString: offset in bytes
  std::uint32_t begin = 0;  ///< children (kDict: key, value, ...): first; kGlobal, kStorage: global
  std::uint32_t size = 0;   ///< children: how many; kString: bytes; kTensor: rank
};

}  // namespace isthmus::detail
