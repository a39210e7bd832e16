#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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
  std::string_view name;             ///< "__torch__.m Net" with a blank, as it stands in the pickle
  std::uint32_t item_bytes = 0;      ///< of a storage type
  std::uint32_t items_per_byte = 1;  ///< of a packed quantised type
  bool per_channel = false;          ///< of a scheme
};

/// The globals that LibTorch's unpickler builds; nullopt for any other.
std::optional<PickleGlobal> known_global(std::string_view module, std::string_view name);

/// The shadow of a pickled value. Children are indices into the arena, so nothing here recurses.
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
  std::int64_t integer = 0;          ///< kBool, kInt; kStorage: elements; kTensor: elements
  std::int64_t rank = 0;             ///< kTensor
  std::string_view text;             ///< kString
  std::vector<std::uint32_t> items;  ///< kTuple, kList; kDict: key, value, key, value, ...
  PickleGlobal global;               ///< kGlobal; kStorage: its type
  std::uint32_t depth = 0;
};

}  // namespace isthmus::detail
