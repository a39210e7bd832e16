#include <pybind11/chrono.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <memory>

#include "bindings/bindings.h"
#include "bindings/call.h"
#include "isthmus/batcher.h"
#include "isthmus/error.h"

namespace py = pybind11;

namespace isthmus::bindings {
namespace {

WhenFull parse_when_full(const std::string& text) {
  if (text == "wait") return WhenFull::kWait;
  if (text == "refuse") return WhenFull::kRefuse;
  throw InvalidInput("when_full \"" + text + "\": expected wait or refuse");
}

/// The data of a request that waits for its answer. A worker thread answers, so the Python objects
/// are released with the GIL held.
struct Answering {
  py::object model;
  py::object done;
  const CallPlan* plan;
  Family family;

  static std::shared_ptr<Answering> make(py::object model, py::object done,
                                         BoundModel::Arguments&& bound) {
    return {new Answering{std::move(model), std::move(done), bound.plan, std::move(bound.family)},
            [](Answering* request) {
              const py::gil_scoped_acquire gil;
              delete request;
            }};
  }

  /// Calls `done(result, None)`; after an error `done(None, raises)`, where `raises()` raises the
  /// error; after a cancellation `done(None, None, cancelled=True)`.
  void answer(const Batcher::Answer& from) const {
    const py::gil_scoped_acquire gil;
    try {
      if (from.cancelled) {
        done(py::none(), py::none(), py::arg("cancelled") = true);
        return;
      }
      if (from.error) {
        const std::exception_ptr error = from.error;
        done(py::none(), py::cpp_function([error] { std::rethrow_exception(error); }));
        return;
      }
      std::vector<Tensor> outputs;
      for (const auto& [name, tensor] : from.outputs) outputs.push_back(tensor);
      done(BoundModel::result(model, *plan, outputs, family), py::none());
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("isthmus.Batcher");
    }
  }
};

/// A Batcher for a Model of Python.
class BoundBatcher {
 public:
  BoundBatcher(const py::object& model, BatcherOptions options)
      : model_(model), method_(options.method) {
    const auto& bound = model.cast<BoundModel&>();
    const Model& native = bound.model();
    options.timeout = bound.timeout();
    const py::gil_scoped_release release;
    batcher_ = std::make_unique<Batcher>(native, std::move(options));
  }
  BoundBatcher(const BoundBatcher&) = delete;
  BoundBatcher& operator=(const BoundBatcher&) = delete;
  ~BoundBatcher() {
    // Workers need the GIL to answer, so it must not be held while waiting for them.
    const py::gil_scoped_release release;
    batcher_.reset();
  }

  Batcher::Ticket submit(const py::object& done, const py::tuple& args, const py::dict& kwargs) {
    const py::object model = model_();
    if (model.is_none()) throw InvalidInput("the model of this batcher is gone; keep it");
    BoundModel::Arguments bound = model.cast<BoundModel&>().bind(model, method_, args, kwargs);
    Inputs named;
    for (std::size_t i = 0; i < bound.inputs.size(); ++i)
      if (bound.inputs[i].defined())
        named.add(bound.plan->signature->inputs[i].name, std::move(bound.inputs[i]));
    const py::dict kept = bound.kept;  // kept alive until the inputs are copied
    const auto answering = Answering::make(model, done, std::move(bound));
    const py::gil_scoped_release release;
    return batcher_->submit(
        named, [answering](const Batcher::Answer& answer) { answering->answer(answer); });
  }

  void close(bool cancel) {
    const py::gil_scoped_release release;
    batcher_->close(cancel ? Pending::kCancel : Pending::kRun);
  }

  [[nodiscard]] const Batcher& native() const noexcept { return *batcher_; }

 private:
  py::weakref model_;  // weak, because the model may own this object
  std::string method_;
  std::unique_ptr<Batcher> batcher_;
};

std::unique_ptr<BoundBatcher> make(const py::object& model, std::string method, int workers,
                                   std::int64_t max_requests, std::int64_t max_elements,
                                   double max_padding, double max_wait, std::size_t max_queue,
                                   const std::string& when_full,
                                   std::map<std::string, double> padding) {
  return std::make_unique<BoundBatcher>(
      std::move(model), BatcherOptions{.method = std::move(method),
                                       .workers = workers,
                                       .max_requests = max_requests,
                                       .max_elements = max_elements,
                                       .max_padding = max_padding,
                                       .max_wait = std::chrono::microseconds(
                                           static_cast<std::int64_t>(max_wait * 1e6)),
                                       .max_queue = max_queue,
                                       .when_full = parse_when_full(when_full),
                                       .padding = std::move(padding)});
}

}  // namespace

void bind_batcher(py::module_& module) {
  py::class_<BatcherStats>(module, "BatcherStats", "The counters of a Batcher.")
      .def_readonly("requests", &BatcherStats::requests)
      .def_readonly("cancelled", &BatcherStats::cancelled)
      .def_readonly("calls", &BatcherStats::calls)
      .def_readonly("elements", &BatcherStats::elements)
      .def_readonly("padding", &BatcherStats::padding)
      .def_readonly("most_waiting", &BatcherStats::most_waiting)
      .def_readonly("longest_wait_ms", &BatcherStats::longest_wait_ms)
      .def_readonly("longest_call_ms", &BatcherStats::longest_call_ms);
  py::class_<Batcher::Ticket>(module, "Ticket", "A queued request.")
      .def("cancel", &Batcher::Ticket::cancel);
  py::class_<BoundBatcher>(module, "Batcher", "A queue of requests; see isthmus.Batcher.")
      .def(py::init(&make), py::arg("model"), py::kw_only(), py::arg("method"), py::arg("workers"),
           py::arg("max_requests"), py::arg("max_elements"), py::arg("max_padding"),
           py::arg("max_wait"), py::arg("max_queue"), py::arg("when_full"), py::arg("padding"))
      .def("submit", &BoundBatcher::submit, py::arg("done"), py::arg("args"), py::arg("kwargs"))
      .def("close", &BoundBatcher::close, py::arg("cancel"))
      .def_property_readonly("stats",
                             [](const BoundBatcher& self) { return self.native().stats(); })
      .def_property_readonly("notes",
                             [](const BoundBatcher& self) { return self.native().notes(); });
}

}  // namespace isthmus::bindings
