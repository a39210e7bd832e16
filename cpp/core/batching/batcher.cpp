#include "isthmus/batcher.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

#include "core/batching/batch_plan.h"
#include "core/bundle/methods.h"
#include "core/proof/compare_golden.h"
#include "core/runtime/transfer.h"
#include "core/timing/clock.h"
#include "isthmus/error.h"

namespace isthmus {
namespace {

using detail::Clock;
using detail::ms_between;

Batcher::Answer cancelled() {
  return {.outputs = {},
          .error = std::make_exception_ptr(ExecutionError(
              "the request was cancelled before it began; submit it again if it is wanted")),
          .cancelled = true};
}

void check(const BatcherOptions& options, const Manifest& manifest, std::size_t method) {
  const auto at_least_one = [](const char* name, std::int64_t value) {
    if (value < 1)
      throw InvalidInput(std::string(name) + " " + std::to_string(value) + ": expected 1 or more");
  };
  at_least_one("workers", options.workers);
  at_least_one("max_requests", options.max_requests);
  at_least_one("max_queue", static_cast<std::int64_t>(options.max_queue));
  if (options.max_elements < 0)
    throw InvalidInput("max_elements " + std::to_string(options.max_elements) +
                       ": expected a positive number, or 0 for no limit");
  if (!(options.max_padding >= 0 && options.max_padding < 1))
    throw InvalidInput("max_padding " + std::to_string(options.max_padding) +
                       ": expected a share, from 0 up to but not 1");
  if (options.max_wait.count() < 0) throw InvalidInput("max_wait: expected no negative time");
  if (manifest.stateful)
    throw InvalidInput(
        "the model has state, so that its calls cannot be put together; give each "
        "caller a session()");
  const Signature& signature = manifest.methods[method];
  if (!signature.writes.empty())
    throw InvalidInput(detail::in_quotes(signature.method) + " writes its input " +
                       detail::in_quotes(signature.inputs[signature.writes.front()].name) +
                       " in place, and a batch would write a joined copy; call the model itself");
}

}  // namespace

struct Batcher::Impl {
  enum class State : std::uint8_t { kWaiting, kBegun, kCancelled };

  struct Waiting {
    BatchPlan::Request request;
    Done done;
    Clock::time_point arrived;
    std::shared_ptr<std::atomic<State>> state;
  };
  using Queue = std::list<Waiting>;

  Model model;
  BatcherOptions options;
  std::size_t method;
  BatchPlan plan;
  std::vector<std::string> notes;

  mutable std::mutex mutex;
  std::condition_variable arrived;  // a request was queued, or the batcher was closed
  std::condition_variable left;     // there is room in the queue, or the batcher was closed
  Queue queue;                      // oldest first
  bool closed = false;
  const pid_t process = ::getpid();
  BatcherStats stats;
  std::vector<std::thread> workers;

  Impl(Model given, BatcherOptions limits)
      : model(std::move(given)),
        options(std::move(limits)),
        method(detail::method_index(model.bundle().manifest(), options.method, "the model")),
        plan(model.signature(model.bundle().manifest().methods[method].method), options.padding) {
    check(options, model.bundle().manifest(), method);
    if (!plan.batches())
      notes.push_back("requests run alone: " + plan.no_batching());
    else if (options.max_padding == 0)
      plan.forbid_padding("max_padding is 0");
    else if (plan.pads())
      prove_padding();
    if (plan.batches() && !plan.pads())
      notes.push_back("only requests of equal length run together: " + plan.no_padding());
  }

  /// Starts the workers. Each keeps this object alive, because a worker may destroy the Batcher
  /// itself, when it destroys an object that a request held.
  static void start(const std::shared_ptr<Impl>& self) {
    try {
      for (int i = 0; i < self->options.workers; ++i)
        self->workers.emplace_back([self] { self->work(); });
    } catch (...) {  // a thread could not be started, so the others must end
      self->end(Pending::kRun);
      throw;
    }
  }

  void end(Pending pending) {
    if (::getpid() != process) {
      // In a forked process. The workers are in the parent: their handles may belong to other
      // threads here, and the mutex may be locked for ever, so neither is used.
      std::make_unique<std::vector<std::thread>>(std::move(workers)).release();
      return;
    }
    Queue dropped;
    std::vector<std::thread> ending;
    {
      const std::lock_guard lock(mutex);
      closed = true;
      if (pending == Pending::kCancel) dropped.swap(queue);
      ending.swap(workers);
    }
    arrived.notify_all();
    left.notify_all();
    for (Waiting& request : dropped) {
      State expected = State::kWaiting;
      if (!request.state->compare_exchange_strong(expected, State::kCancelled)) continue;
      request.done(cancelled());
      const std::lock_guard lock(mutex);
      ++stats.cancelled;
    }
    for (std::thread& worker : ending) {
      if (worker.get_id() == std::this_thread::get_id())
        worker.detach();  // this thread, which ends after the call
      else
        worker.join();
    }
  }

  // --- the model ------------------------------------------------------------------------------

  std::vector<Tensor> run(std::vector<Tensor> inputs) const {
    const Signature& signature = model.bundle().manifest().methods[method];
    const bool elsewhere = !model.device().is_cpu();
    if (elsewhere)
      detail::transfer_tensors(signature, inputs, [this](const Tensor& input) {
        return model.transfer(input, model.device());
      });
    RunOptions run;
    run.timeout = options.timeout;
    std::vector<Tensor> outputs = model.run_ordered(inputs, method, run);
    if (elsewhere)
      for (Tensor& output : outputs)
        if (output.defined() && !output.device().is_cpu())
          output = model.transfer(output, Device{});
    return outputs;
  }

  // Runs a golden with padding. When the answer differs, the model reads its padding, and padding
  // is forbidden.
  void prove_padding() {
    const Manifest& manifest = model.bundle().manifest();
    for (const Golden& golden : manifest.goldens) {
      if (golden.steps.size() != 1 || golden.steps[0].method != options.method ||
          !model.artifact().serves(golden))
        continue;
      const GoldenCall call = model.bundle().golden(golden).front();
      BatchPlan::Request request = plan.prepare(call.inputs);
      const std::int64_t longer = std::min(request.length + 3, plan.most_length());
      if (longer == request.length || request.length < 2) continue;
      const std::array<const BatchPlan::Request*, 1> alone{&request};
      std::vector<Outputs> padded;
      try {
        padded = plan.split(run(plan.join(alone, longer)), alone);
      } catch (const Error& error) {
        return plan.forbid_padding(std::string("the padded golden ") + golden.name +
                                   " fails: " + error.what());
      }
      for (const auto& [name, expected] : call.outputs) {
        const OutputParity parity =
            detail::compare_golden(model, call, name, padded.front().find(name));
        if (!parity)
          return plan.forbid_padding("the model reads its padding: \"" + name + "\" of golden " +
                                     golden.name + " changes with it (" + parity.reason +
                                     "); name the value that it takes for padding, or give a mask");
      }
      return;
    }
    plan.forbid_padding("no golden of \"" + options.method +
                        "\" could be padded to see whether the model minds");
  }

  // --- the queue ------------------------------------------------------------------------------

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      arrived.wait(lock, [this] { return closed || !queue.empty(); });
      if (queue.empty()) return;
      const Clock::time_point due = queue.front().arrived + options.max_wait;
      std::vector<Queue::iterator> chosen;
      const bool full = choose(chosen);
      if (!full && !closed && Clock::now() < due) {
        arrived.wait_until(lock, due);
        continue;
      }
      Queue group;
      for (const auto& request : chosen) group.splice(group.end(), queue, request);
      left.notify_all();
      // This worker may have got the notification for a request that it leaves in the queue.
      if (!queue.empty()) arrived.notify_one();
      lock.unlock();
      answer(group);
      group.clear();  // without the lock, because the requests may hold objects that need other
                      // locks
      lock.lock();
    }
  }

  // Chooses the oldest request and those that may join it, the nearest in length first. Returns
  // true when no other could join. The caller holds the mutex.
  bool choose(std::vector<Queue::iterator>& chosen) {
    const Queue::iterator oldest = queue.begin();
    chosen.push_back(oldest);
    if (!plan.batches()) return true;
    std::vector<Queue::iterator> others;
    for (auto at = std::next(oldest); at != queue.end(); ++at)
      if (at->request.kind == oldest->request.kind) others.push_back(at);
    const auto distance = [&](const Queue::iterator& other) {
      return std::abs(other->request.length - oldest->request.length);
    };
    std::stable_sort(others.begin(), others.end(),
                     [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
    std::int64_t rows = oldest->request.rows;
    std::int64_t longest = oldest->request.length;
    std::int64_t content = rows * longest;
    for (const auto& other : others) {
      if (static_cast<std::int64_t>(chosen.size()) == options.max_requests) return true;
      const std::int64_t more = rows + other->request.rows;
      const std::int64_t length = std::max(longest, other->request.length);
      const std::int64_t filled = content + other->request.rows * other->request.length;
      const std::int64_t all = more * length;
      if (more > plan.most_rows()) return true;
      if (options.max_elements > 0 && all > options.max_elements) return true;
      if (static_cast<double>(all - filled) > options.max_padding * static_cast<double>(all))
        continue;
      chosen.push_back(other);
      rows = more;
      longest = length;
      content = filled;
    }
    return static_cast<std::int64_t>(chosen.size()) == options.max_requests;
  }

  void answer(Queue& group) {
    const Clock::time_point now = Clock::now();
    std::vector<Waiting*> begun;
    std::int64_t taken_back = 0;
    double longest_wait = 0;
    for (Waiting& request : group) {
      State expected = State::kWaiting;
      if (request.state->compare_exchange_strong(expected, State::kBegun)) {
        begun.push_back(&request);
        longest_wait = std::max(longest_wait, ms_between(request.arrived, now));
      } else {
        ++taken_back;
      }
    }
    {
      // Before the answers, so that a caller with an answer finds it counted.
      const std::lock_guard lock(mutex);
      stats.requests += static_cast<std::int64_t>(begun.size());
      stats.cancelled += taken_back;
      stats.longest_wait_ms = std::max(stats.longest_wait_ms, longest_wait);
    }
    if (!begun.empty()) run_together(begun);
  }

  void run_together(const std::vector<Waiting*>& group) {
    std::vector<const BatchPlan::Request*> requests;
    std::int64_t length = 1;
    std::int64_t rows = 0;
    std::int64_t content = 0;
    for (const Waiting* waiting : group) {
      const BatchPlan::Request& request = waiting->request;
      requests.push_back(&request);
      length = std::max(length, request.length);
      rows += request.rows;
      content += request.rows * request.length;
    }
    {
      const std::lock_guard lock(mutex);
      ++stats.calls;
      stats.elements += rows * length;
      stats.padding += rows * length - content;
    }
    std::vector<Outputs> answers;
    const Clock::time_point start = Clock::now();
    try {
      const std::vector<Tensor> outputs = run(plan.join(requests, length));
      answers = plan.batches() ? plan.split(outputs, requests) : alone(outputs);
      const std::lock_guard lock(mutex);
      stats.longest_call_ms = std::max(stats.longest_call_ms, ms_between(start, Clock::now()));
    } catch (...) {
      if (group.size() == 1)
        return group.front()->done({.outputs = {}, .error = std::current_exception()});
      // One request may have caused the error, and only that one may fail.
      for (Waiting* waiting : group) run_together({waiting});
      return;
    }
    for (std::size_t i = 0; i < group.size(); ++i)
      group[i]->done({.outputs = std::move(answers[i]), .error = nullptr});
  }

  [[nodiscard]] std::vector<Outputs> alone(const std::vector<Tensor>& outputs) const {
    const Signature& signature = model.bundle().manifest().methods[method];
    Outputs answer;
    for (std::size_t i = 0; i < outputs.size(); ++i)
      answer.add(signature.outputs[i].name, outputs[i]);
    return {std::move(answer)};
  }
};

bool Batcher::Ticket::cancel() const {
  return cancel_ && cancel_();
}

Batcher::Batcher(Model model, BatcherOptions options)
    : impl_(std::make_shared<Impl>(std::move(model), std::move(options))) {
  Impl::start(impl_);
}

Batcher::~Batcher() {
  close(Pending::kRun);
}

std::future<Outputs> Batcher::submit(const Inputs& inputs) {
  const auto promise = std::make_shared<std::promise<Outputs>>();
  std::future<Outputs> future = promise->get_future();
  submit(inputs, [promise](Answer answer) {
    if (answer.error)
      promise->set_exception(answer.error);
    else
      promise->set_value(std::move(answer.outputs));
  });
  return future;
}

Batcher::Ticket Batcher::submit(const Inputs& inputs, Done done) {
  Impl& impl = *impl_;
  BatchPlan::Request request = impl.plan.prepare(inputs);
  // Copied, because the caller may use its buffers again at once.
  for (Tensor& input : request.inputs) input = input.clone();
  const auto state = std::make_shared<std::atomic<Impl::State>>(Impl::State::kWaiting);
  const auto shared_done = std::make_shared<Done>(std::move(done));
  {
    std::unique_lock lock(impl.mutex);
    const auto has_room = [&] { return impl.closed || impl.queue.size() < impl.options.max_queue; };
    if (!has_room() && impl.options.when_full == WhenFull::kRefuse)
      throw ExecutionError(
          "the queue is full: " + std::to_string(impl.queue.size()) +
          " requests wait (max_queue); submit fewer at a time, or wait for answers");
    impl.left.wait(lock, has_room);
    if (impl.closed) throw ExecutionError("the Batcher is closed and takes no more requests");
    impl.queue.push_back(
        {.request = std::move(request),
         .done = [shared_done](Answer answer) { (*shared_done)(std::move(answer)); },
         .arrived = Clock::now(),
         .state = state});
    impl.stats.most_waiting = std::max(impl.stats.most_waiting, impl.queue.size());
  }
  impl.arrived.notify_one();
  Ticket ticket;
  // Weak, because `done` may own the ticket.
  ticket.cancel_ = [state, weak = std::weak_ptr<Done>(shared_done)] {
    const std::shared_ptr<Done> waiting = weak.lock();
    Impl::State expected = Impl::State::kWaiting;
    if (!waiting || !state->compare_exchange_strong(expected, Impl::State::kCancelled))
      return false;
    (*waiting)(cancelled());
    return true;
  };
  return ticket;
}

void Batcher::close(Pending pending) {
  impl_->end(pending);
}

BatcherStats Batcher::stats() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->stats;
}

const std::vector<std::string>& Batcher::notes() const noexcept {
  return impl_->notes;
}

}  // namespace isthmus
