#include "engines/torch/module_state.h"

#include <algorithm>
#include <unordered_map>

namespace isthmus::torch_engine {
namespace {

using c10::IValue;
using ObjectPtr = c10::intrusive_ptr<c10::ivalue::Object>;

class Forker {
 public:
  explicit Forker(const std::vector<std::string>& state) : state_(state) {}

  ObjectPtr fork(const ObjectPtr& object, const std::string& path) {
    // A module that is used in two places stays one module.
    const auto known = forked_.find(object.get());
    if (known != forked_.end()) return known->second;
    ObjectPtr result = object->copy();
    forked_.emplace(object.get(), result);
    const auto type = object->type();
    for (std::size_t i = 0; i < type->numAttributes(); ++i) {
      const std::string name =
          path.empty() ? type->getAttributeName(i) : path + "." + type->getAttributeName(i);
      result->setSlot(i, fork_value(object->getSlot(i), name, type->is_parameter(i)));
    }
    return result;
  }

 private:
  IValue fork_value(const IValue& value, const std::string& path, bool parameter) {
    if (value.isTensor()) {
      const bool listed = std::find(state_.begin(), state_.end(), path) != state_.end();
      if (!value.toTensor().defined() || (parameter && !listed)) return value;
      return value.toTensor().clone();
    }
    // Native objects, such as packed weights, do not change; they are shared.
    if (value.isObject()) return fork(value.toObject(), path);
    if (value.isList() || value.isGenericDict() || value.isTuple()) return value.deepcopy();
    return value;
  }

  const std::vector<std::string>& state_;
  std::unordered_map<const c10::ivalue::Object*, ObjectPtr> forked_;
};

}  // namespace

torch::jit::Module fork_module(const torch::jit::Module& module,
                               const std::vector<std::string>& state) {
  return torch::jit::Module(Forker(state).fork(module._ivalue(), ""));
}

}  // namespace isthmus::torch_engine
