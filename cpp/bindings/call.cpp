#include "bindings/call.h"

#include <algorithm>

#include "isthmus/error.h"

namespace py = pybind11;

namespace isthmus::bindings {
namespace {

bool is_plain(const Tree& tree) {
  return tree.kind == Tree::Kind::kLeaf || tree.kind == Tree::Kind::kNone;
}

bool is_flat_result(const Tree& tree) {
  if (is_plain(tree)) return true;
  const bool known = tree.kind == Tree::Kind::kTuple || tree.kind == Tree::Kind::kList ||
                     tree.kind == Tree::Kind::kDict;
  return known && std::all_of(tree.items.begin(), tree.items.end(), is_plain);
}

std::size_t position(const std::vector<ValueSpec>& specs, std::string_view name) {
  const auto spec = std::find_if(specs.begin(), specs.end(), [&](const ValueSpec& candidate) {
    return candidate.name == name;
  });
  return static_cast<std::size_t>(spec - specs.begin());
}

CallPlan make_plan(const Signature& signature, std::size_t index) {
  CallPlan plan;
  plan.signature = &signature;
  plan.index = index;
  plan.flat_arguments = true;
  const auto add = [&](const std::string& name, const Tree& tree) {
    if (tree.kind != Tree::Kind::kLeaf) {
      plan.flat_arguments = false;
      return;
    }
    plan.parameters.push_back(name);
    plan.inputs.push_back(position(signature.inputs, tree.name));
  };
  for (const Tree& tree : signature.args) add(tree.name, tree);
  for (const auto& [name, tree] : signature.kwargs) add(name, tree);
  plan.flat_result = is_flat_result(signature.returns);
  return plan;
}

std::string_view text_of(py::handle value) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (text == nullptr) throw py::error_already_set();
  return {text, static_cast<std::size_t>(size)};
}

/// Throws the library's error for a name that is unknown or given twice.
[[noreturn]] void refuse_names(const CallPlan& plan, const std::vector<Tensor>& inputs,
                               std::string_view name) {
  Inputs named;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined()) named.add(plan.signature->inputs[i].name, inputs[i]);
  named.add(std::string(name), Tensor::scalar<bool>(false));
  (void)check_inputs(*plan.signature, named, Device{});
  throw InvalidInput("input \"" + std::string(name) + "\" cannot be given here");
}

/// Converts arguments that are given by position and by parameter name.
std::vector<Tensor> bind_flat(const CallPlan& plan, const py::tuple& args, const py::dict& kwargs,
                              Family& family) {
  const auto& specs = plan.signature->inputs;
  std::vector<Tensor> inputs(specs.size());
  if (args.size() > plan.parameters.size())
    throw InvalidInput("\"" + plan.signature->method + "\" takes " +
                       std::to_string(plan.parameters.size()) + " arguments, got " +
                       std::to_string(args.size()) + "; it is " + plan.signature->describe());
  for (std::size_t i = 0; i < args.size(); ++i) {
    const std::size_t input = plan.inputs[i];
    inputs[input] = to_tensor(py::handle(PyTuple_GET_ITEM(args.ptr(), static_cast<Py_ssize_t>(i))),
                              specs[input], family);
  }
  for (const auto& [key, value] : kwargs) {
    const std::string_view name = text_of(key);
    const auto parameter = std::find(plan.parameters.begin(), plan.parameters.end(), name);
    const auto at = static_cast<std::size_t>(parameter - plan.parameters.begin());
    if (parameter == plan.parameters.end() || at < args.size()) refuse_names(plan, inputs, name);
    inputs[plan.inputs[at]] = to_tensor(value, specs[plan.inputs[at]], family);
  }
  return inputs;
}

/// Converts values that are given by input name.
std::vector<Tensor> bind_named(const CallPlan& plan, const py::dict& values, Family& family) {
  const auto& specs = plan.signature->inputs;
  std::vector<Tensor> inputs(specs.size());
  for (const auto& [key, value] : values) {
    const std::string_view name = text_of(key);
    const std::size_t input = position(specs, name);
    if (input == specs.size()) refuse_names(plan, inputs, name);
    inputs[input] = to_tensor(value, specs[input], family);
  }
  return inputs;
}

/// Returns the Python values of the inputs that the method writes.
std::vector<py::object> written_values(const CallPlan& plan, const py::tuple& args,
                                       const py::dict& kwargs, const py::dict& flattened) {
  std::vector<py::object> values;
  const auto add = [&](const py::dict& from, const std::string& name) {
    if (from.contains(name)) values.push_back(from[name.c_str()]);
  };
  for (const std::size_t written : plan.signature->writes) {
    if (!plan.flat_arguments) {
      add(flattened, plan.signature->inputs[written].name);
      continue;
    }
    const auto at = static_cast<std::size_t>(
        std::find(plan.inputs.begin(), plan.inputs.end(), written) - plan.inputs.begin());
    if (at < args.size())
      values.push_back(args[at]);
    else
      add(kwargs, plan.parameters[at]);
  }
  return values;
}

std::vector<Tensor> run(const Model& model, Session* session, const CallPlan& plan,
                        std::vector<Tensor>& inputs, const RunOptions& options) {
  const py::gil_scoped_release release;
  if (session == nullptr) return model.run_ordered(inputs, plan.index, options);
  Inputs named;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].defined()) named.add(plan.signature->inputs[i].name, std::move(inputs[i]));
  std::vector<Tensor> outputs;
  for (const auto& [name, tensor] : session->call(plan.signature->method, named, options))
    outputs.push_back(tensor);
  return outputs;
}

py::object build_result(const CallPlan& plan, const std::vector<Tensor>& outputs,
                        const Family& family) {
  const auto& specs = plan.signature->outputs;
  const auto value_of = [&](const Tree& tree) -> py::object {
    if (tree.kind == Tree::Kind::kNone) return py::none();
    const std::size_t at = position(specs, tree.name);
    return to_python(outputs[at], specs[at].kind, family);
  };
  const Tree& tree = plan.signature->returns;
  if (is_plain(tree)) return value_of(tree);
  if (tree.kind == Tree::Kind::kDict) {
    py::dict result;
    for (std::size_t i = 0; i < tree.items.size(); ++i)
      result[std::visit([](const auto& key) -> py::object { return py::cast(key); },
                        tree.keys[i])] = value_of(tree.items[i]);
    return result;
  }
  py::list result(tree.items.size());
  for (std::size_t i = 0; i < tree.items.size(); ++i) result[i] = value_of(tree.items[i]);
  if (tree.kind == Tree::Kind::kList) return result;
  return py::tuple(result);
}

}  // namespace

BoundModel::BoundModel(Model model) : model_(std::move(model)) {
  const auto& methods = model_.bundle().manifest().methods;
  for (std::size_t i = 0; i < methods.size(); ++i) plans_.push_back(make_plan(methods[i], i));
}

void BoundModel::set_timeout(double seconds) {
  if (!(seconds >= 0))
    throw InvalidInput("timeout " + std::to_string(seconds) +
                       ": expected a number of seconds, or 0 for no limit");
  if (seconds > 0 && !model_.can_stop())
    throw InvalidInput("timeout: the engine " + model_.load_report().engine +
                       " cannot stop a call that has begun; load the bundle on an engine that can "
                       "(docs/engines.md), or call it in a process of its own");
  options_.timeout = seconds;
}

const CallPlan& BoundModel::plan(std::string_view method) const {
  for (const CallPlan& plan : plans_)
    if (plan.signature->method == method) return plan;
  (void)model_.signature(method);  // throws and names the methods
  throw InvalidInput("no such method");
}

BoundModel::Arguments BoundModel::bind(const py::object& self, std::string_view method,
                                       const py::tuple& args, const py::dict& kwargs) const {
  Arguments bound;
  bound.plan = &plan(method);
  if (bound.plan->flat_arguments) {
    bound.inputs = bind_flat(*bound.plan, args, kwargs, bound.family);
  } else {
    bound.kept = self.attr("_flatten")(bound.plan->signature->method, args, kwargs);
    bound.inputs = bind_named(*bound.plan, bound.kept, bound.family);
  }
  return bound;
}

py::object BoundModel::result(const py::object& self, const CallPlan& plan,
                              const std::vector<Tensor>& outputs, const Family& family) {
  if (plan.flat_result) return build_result(plan, outputs, family);
  py::dict values;
  const auto& specs = plan.signature->outputs;
  for (std::size_t i = 0; i < specs.size(); ++i)
    values[py::str(specs[i].name)] = to_python(outputs[i], specs[i].kind, family);
  return self.attr("_rebuild")(plan.signature->method, values);
}

py::object BoundModel::call(const py::object& self, std::string_view method, const py::tuple& args,
                            const py::dict& kwargs, Session* session) const {
  Arguments bound = bind(self, method, args, kwargs);
  const std::vector<Tensor> outputs = run(model_, session, *bound.plan, bound.inputs, options_);
  if (!bound.plan->signature->writes.empty())
    for (const py::object& value : written_values(*bound.plan, args, kwargs, bound.kept))
      count_write(value);
  return result(self, *bound.plan, outputs, bound.family);
}

}  // namespace isthmus::bindings
