#include "engines/torch/tensor_convert.h"

#include "isthmus/error.h"
#include "isthmus/torch.h"

namespace isthmus::torch_engine {

Tensor from_model(at::Tensor tensor) {
  try {
    if (tensor.layout() == at::kStrided && !tensor.is_quantized()) {
      // Another tensor has the same memory: a weight, a constant, the state or another output.
      const bool shared = tensor.has_storage() && tensor.storage().use_count() > 1;
      if (shared || !tensor.is_contiguous()) tensor = tensor.clone(at::MemoryFormat::Contiguous);
    }
    return isthmus::from_torch(std::move(tensor));
  } catch (const InvalidInput& error) {
    // The model is at fault, not the input.
    throw ExecutionError(std::string("the model gave an unsupported tensor: ") + error.what() +
                         ", inside the model");
  }
}

Tensor copy_of(const Tensor& tensor) {
  return isthmus::from_torch(isthmus::to_torch(tensor).clone(at::MemoryFormat::Contiguous));
}

}  // namespace isthmus::torch_engine
