#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace isthmus::detail {

/// The meaning of a global in a pickle.
struct PickleGlobal {
  enum class Kind : std::uint8_t {
    kClass,        ///< a class of the archive, or of packed weights
    kStorageType,  ///< such as torch.FloatStorage
    kScheme,       ///< a quantisation scheme
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
  std::uint32_t item_bytes = 0;      ///< kStorageType
  std::uint32_t items_per_byte = 1;  ///< kStorageType of a packed quantised type
  bool per_channel = false;          ///< kScheme
};

/// Returns the meaning of a global that LibTorch's unpickler builds; nullopt for any other.
std::optional<PickleGlobal> known_global(std::string_view module, std::string_view name);

/// The abstract copy of a pickled value. It is small, because tables of source positions have
/// hundreds of thousands, and refers to its children by index, so that nothing recurses.
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
