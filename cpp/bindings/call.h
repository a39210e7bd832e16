#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <string_view>
#include <vector>

#include "bindings/array_exchange.h"
#include "isthmus/model.h"

namespace isthmus::bindings {

/// The precomputed mapping of a method's Python arguments to its inputs.
struct CallPlan {
  const Signature* signature = nullptr;
  std::size_t index = 0;
  std::vector<std::string> parameters;  ///< in the order of the original call
  std::vector<std::size_t> inputs;      ///< index of the input of each parameter
  bool flat_arguments = false;          ///< every argument is an input
  bool flat_result = false;  ///< the result is a value, or a tuple, list or dict of values
};

/// A Model and the call plans of its methods.
class BoundModel {
 public:
  explicit BoundModel(Model model);

  /// Calls a method. Nested arguments and results are converted in Python, by
  /// `self._flatten(method, args, kwargs)` and `self._rebuild(method, values)`; flat ones are
  /// converted here. The GIL is released while the model runs.
  pybind11::object call(const pybind11::object& self, std::string_view method,
                        const pybind11::tuple& args, const pybind11::dict& kwargs,
                        Session* session = nullptr) const;

  /// Python arguments converted to the inputs of a call.
  struct Arguments {
    const CallPlan* plan = nullptr;
    std::vector<Tensor> inputs;  ///< in the signature's order
    pybind11::dict kept;         ///< keeps the arrays alive during the call
    Family family;
  };
  [[nodiscard]] Arguments bind(const pybind11::object& self, std::string_view method,
                               const pybind11::tuple& args, const pybind11::dict& kwargs) const;

  /// Returns the outputs in the structure of the original result. `self` is used only for nested
  /// ones.
  [[nodiscard]] static pybind11::object result(const pybind11::object& self, const CallPlan& plan,
                                               const std::vector<Tensor>& outputs,
                                               const Family& family);

  [[nodiscard]] const Model& model() const noexcept { return model_; }

  /// The `RunOptions::timeout` of each call.
  [[nodiscard]] double timeout() const noexcept { return options_.timeout; }
  /// @throws InvalidInput for a negative number, and for an engine that cannot stop calls.
  void set_timeout(double seconds);

 private:
  [[nodiscard]] const CallPlan& plan(std::string_view method) const;

  Model model_;
  RunOptions options_;
  std::vector<CallPlan> plans_;
};

/// A Session of a BoundModel.
class BoundSession {
 public:
  explicit BoundSession(const BoundModel& model) : session_(model.model().session()) {}

  pybind11::object call(const pybind11::object& model, const std::string& method,
                        const pybind11::tuple& args, const pybind11::dict& kwargs) {
    return model.cast<BoundModel&>().call(model, method, args, kwargs, &session_);
  }

 private:
  Session session_;
};

}  // namespace isthmus::bindings
