#pragma once

#include "core/tensor/dlpack_abi.h"

namespace isthmus::dlpack {

/// The binary layout of DLPack 1.3's C exchange interface, which converts between Python objects
/// and C tensors without a Python call. A type publishes it as the capsule
/// `__dlpack_c_exchange_api__`.
struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;
};

struct ExchangeApi {
  ExchangeHeader header;
  void* allocate;
  int (*from_object)(void* object, ManagedTensorVersioned** out);
  int (*to_object)(ManagedTensorVersioned* tensor, void** out);
  int (*view_of_object)(void* object, DLTensor* out);
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** out);
};

}  // namespace isthmus::dlpack
