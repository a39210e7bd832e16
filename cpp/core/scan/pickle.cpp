#include "core/scan/pickle.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/files/little_endian.h"
#include "core/scan/code_lexer.h"
#include "core/scan/pickle_values.h"

namespace isthmus::detail {
namespace {

constexpr std::size_t kMaxFills = 1 << 16;  // after that, a container is filled in one step
constexpr std::uint32_t kMaxDepth = 400;    // LibTorch destroys nested values recursively

using Value = PickleValue;
using Kind = PickleValue::Kind;
using Index = std::uint32_t;

/// Thrown and caught in this file: the first fault ends the scan.
struct Fault {
  std::string what;
  std::string kind = "pickle";
};
[[noreturn]] void fail(std::string what) {
  throw Fault{std::move(what)};
}

class PickleScanner {
 public:
  PickleScanner(const PickleSource& source, ScanState& state)
      : source_(source), bytes_(source.bytes), state_(state) {}

  void run() {
    try {
      if (number<std::uint8_t>() != 0x80 || number<std::uint8_t>() != 2) {
        fail("it is no pickle of protocol 2");
      }
      while (step()) {
      }
      if (at_ != bytes_.size()) fail("bytes follow its end");
      if (stack_.size() != 1 || !marks_.empty()) fail("it does not end with one value");
      if (source_.debug_table) check_debug_table();
    } catch (const Fault& fault) {
      state_.refuse(fault.kind, fault.what,
                    source_.path + " at byte " + std::to_string(opcode_at_));
    }
  }

 private:
  struct Slot {
    Index value = 0;
    bool fresh = false;  ///< just created, not read from the memo, so it may still be filled
  };

  // --- reading ----------------------------------------------------------------------------
  template <typename T>
  T number() {
    if (!within(at_, sizeof(T), bytes_.size())) fail("it is truncated");
    const T value = load_le<T>(bytes_, at_);
    at_ += sizeof(T);
    return value;
  }
  std::string_view text(std::uint64_t size) {
    if (!within(at_, size, bytes_.size())) fail("it is truncated");
    const std::string_view result(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
    at_ += size;
    return result;
  }
  std::string_view line() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_,
                                bytes_.size() - at_);
    const std::size_t end = rest.find('\n');
    if (end == std::string_view::npos) fail("it is truncated");
    at_ += end + 1;
    const std::string_view result = rest.substr(0, end);
    const bool identifier = std::all_of(result.begin(), result.end(), [](char c) {
      return c == '_' || c == '.' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
             (c >= 'A' && c <= 'Z');
    });
    if (!identifier || result.empty()) fail("a global's name is no qualified identifier");
    return result;
  }

  // --- the stack --------------------------------------------------------------------------
  Value& at(Index index) { return values_[index]; }
  [[nodiscard]] std::span<const Index> items(const Value& value) const {
    const bool container =
        value.kind == Kind::kTuple || value.kind == Kind::kList || value.kind == Kind::kDict;
    if (!container) return {};
    return std::span(children_).subspan(value.begin, value.size);
  }
  [[nodiscard]] std::span<const Index> items(Index index) const { return items(values_[index]); }
  [[nodiscard]] std::string_view text_of(Index index) const {
    const Value& value = values_[index];
    return {reinterpret_cast<const char*>(bytes_.data()) + value.integer, value.size};
  }
  [[nodiscard]] const PickleGlobal& global_of(Index index) const {
    return globals_[values_[index].begin];
  }
  Index make(const Value& value) {
    values_.push_back(value);
    return static_cast<Index>(values_.size() - 1);
  }
  void push(Kind kind, std::int64_t integer = 0) {
    Value value;
    value.kind = kind;
    value.integer = integer;
    stack_.push_back({make(std::move(value)), true});
  }
  // Small integers are frequent, so that each has one shared value.
  void push_small(std::uint8_t number) {
    Index& index = small_[number];
    if (index == 0) {
      push(Kind::kInt, number);
      index = stack_.back().value + 1;
    } else {
      stack_.push_back({index - 1, true});
    }
  }
  Index pop() {
    if (stack_.size() <= floor()) fail("its stack runs empty");
    const Index value = stack_.back().value;
    stack_.pop_back();
    return value;
  }
  // Values below the last mark belong to a container that is not complete.
  [[nodiscard]] std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  // Returns the values since the last mark; they are valid until the next call.
  std::span<const Index> pop_to_mark() {
    if (marks_.empty()) fail("its stack lacks a mark");
    popped_.clear();
    for (std::size_t i = marks_.back(); i < stack_.size(); ++i) popped_.push_back(stack_[i].value);
    stack_.resize(marks_.back());
    marks_.pop_back();
    return popped_;
  }
  void adopt(Value& container, std::span<const Index> added) {
    if (added.empty()) return;
    // Children are contiguous, so a container that grows again moves to the end.
    const Value old = container;
    container.begin = static_cast<Index>(children_.size());
    for (Index i = 0; i < old.size; ++i) children_.push_back(children_[old.begin + i]);
    for (const Index item : added) {
      container.depth = std::max(container.depth, at(item).depth + 1);
      children_.push_back(item);
    }
    container.size = static_cast<Index>(children_.size()) - container.begin;
    if (container.depth > kMaxDepth) fail("its values are nested too deeply");
  }
  void push_tuple(std::span<const Index> added) {
    Value value;
    value.kind = Kind::kTuple;
    adopt(value, added);
    stack_.push_back({make(value), true});
  }
  // Only a container that was just created may be filled; otherwise values could contain
  // themselves. It grows once, or in pickles that Python wrote, in a few large steps.
  void fill(Kind kind, std::span<const Index> added) {
    if (stack_.size() <= floor() || !stack_.back().fresh || at(stack_.back().value).kind != kind) {
      fail("it fills a container that is not the one just made");
    }
    if (kind == Kind::kDict && added.size() % 2 != 0) fail("a key lacks its value");
    if (++fills_ > kMaxFills && at(stack_.back().value).size > 0) {
      fail("it fills its containers in too many steps");
    }
    adopt(at(stack_.back().value), added);
  }

  void remember(std::uint64_t slot) {
    // Ids count from 0. LibTorch would allocate memory for any 32-bit id.
    if (slot > memo_.size()) fail("it numbers its values with gaps");
    if (stack_.size() <= floor()) fail("its stack runs empty");
    if (slot == memo_.size()) memo_.emplace_back();
    memo_[slot] = stack_.back().value;
  }
  void recall(std::uint64_t slot) {
    if (slot >= memo_.size()) fail("it refers to a value that it has not made yet");
    const Index value = memo_[slot];
    const Kind kind = at(value).kind;
    const bool container = kind == Kind::kList || kind == Kind::kDict;
    if (container && std::any_of(stack_.begin(), stack_.end(),
                                 [&](const Slot& other) { return other.value == value; })) {
      fail("a container could hold itself");
    }
    stack_.push_back({value, false});
  }

  bool step() {
    opcode_at_ = at_;
    const auto opcode = number<std::uint8_t>();
    switch (opcode) {
      case '.':
        return false;
      case '(':
        marks_.push_back(stack_.size());
        break;
      case 'N':
        push(Kind::kNone);
        break;
      case 0x88:
      case 0x89:
        push(Kind::kBool, opcode == 0x88 ? 1 : 0);
        break;
      case 'K':
        push_small(number<std::uint8_t>());
        break;
      case 'M':
        push(Kind::kInt, number<std::uint16_t>());
        break;
      case 'J':
        push(Kind::kInt, static_cast<std::int32_t>(number<std::uint32_t>()));
        break;
      case 0x8a:
        if (number<std::uint8_t>() != 8) fail("it holds an integer of more than 64 bits");
        push(Kind::kInt, static_cast<std::int64_t>(number<std::uint64_t>()));
        break;
      case 'G':
        number<std::uint64_t>();
        push(Kind::kFloat);
        break;
      case 'X': {
        push(Kind::kString);
        const auto size = number<std::uint32_t>();
        Value& value = at(stack_.back().value);
        value.integer = static_cast<std::int64_t>(at_);
        value.size = size;
        text(size);
        break;
      }
      case ']':
        push(Kind::kList);
        break;
      case '}':
        push(Kind::kDict);
        break;
      case ')':
        push(Kind::kTuple);
        break;
      case 't':
        push_tuple(pop_to_mark());
        break;
      case 0x85:
      case 0x86:
      case 0x87: {
        const auto count = static_cast<std::size_t>(opcode - 0x84);
        std::array<Index, 3> few{};
        for (std::size_t i = count; i-- > 0;) few[i] = pop();
        push_tuple(std::span(few).first(count));
        break;
      }
      case 'e':
        fill_from_mark(Kind::kList);
        break;
      case 'u':
        fill_from_mark(Kind::kDict);
        break;
      case 's': {
        const Index value = pop();
        const Index key = pop();
        fill(Kind::kDict, std::array{key, value});
        break;
      }
      case 'q':
        remember(number<std::uint8_t>());
        break;
      case 'r':
        remember(number<std::uint32_t>());
        break;
      case 'h':
        recall(number<std::uint8_t>());
        break;
      case 'j':
        recall(number<std::uint32_t>());
        break;
      case 'c':
        push_global();
        break;
      case 0x81:
        make_object();
        break;
      case 'R':
      case 'b':
        call();
        break;
      case 'Q':
        push_storage();
        break;
      default:
        fail("opcode " + std::to_string(opcode) + " is none that torch.jit.save writes");
    }
    return true;
  }

  void fill_from_mark(Kind kind) { fill(kind, pop_to_mark()); }

  void push_global() {
    const std::string_view module = line();
    const std::string_view name = line();
    const auto global = known_global(module, name);
    if (!global) {
      fail("the global " + std::string(module) + "." + std::string(name) +
           " is none that TorchScript builds");
    }
    if (global->kind == PickleGlobal::Kind::kClass) {
      if (source_.debug_table) fail("a table of source positions holds an object");
      std::string qualified = std::string(module) + "." + std::string(name);
      if (judged_.insert(qualified).second) judge_class(qualified, source_.path, state_);
    }
    push(Kind::kGlobal);
    at(stack_.back().value).begin = static_cast<Index>(globals_.size());
    globals_.push_back(*global);
  }

  // NEWOBJ replaces a class and its empty arguments with the class, which BUILD then calls.
  void make_object() {
    const Index arguments = pop();
    if (at(arguments).kind != Kind::kTuple || at(arguments).size != 0) {
      fail("an object is made with arguments");
    }
    if (stack_.size() <= floor() || at(stack_.back().value).kind != Kind::kGlobal ||
        global_of(stack_.back().value).kind != PickleGlobal::Kind::kClass) {
      fail("an object is made of something that is no class");
    }
  }

  // REDUCE and BUILD, which LibTorch treats alike.
  void call() {
    const Index argument = pop();
    const Index callee = pop();
    if (at(callee).kind != Kind::kGlobal) fail("it calls something that is no global");
    using Global = PickleGlobal::Kind;
    switch (global_of(callee).kind) {
      case Global::kClass: {
        push(Kind::kObject);
        Value& object = at(stack_.back().value);
        object.depth = at(argument).depth + 1;
        if (object.depth > kMaxDepth) fail("its values are nested too deeply");
        break;
      }
      case Global::kRebuildTensor:
      case Global::kRebuildQuantized:
        push_tensor(argument, global_of(callee).kind == Global::kRebuildQuantized);
        break;
      case Global::kOrderedDict:
        push(Kind::kNone);
        break;
      case Global::kDevice:
        require(argument, {Kind::kString}, "a device");
        state_.note("device_literal",
                    "device literal \"" + std::string(text_of(items(argument)[0])) + "\"",
                    source_.path);
        push(Kind::kOther);
        break;
      case Global::kComplex:
        require(argument, {Kind::kFloat, Kind::kFloat}, "a complex number");
        push(Kind::kOther);
        break;
      case Global::kIntList:
        push_list(argument, Kind::kInt);
        break;
      case Global::kFloatList:
        push_list(argument, Kind::kFloat);
        break;
      case Global::kBoolList:
        push_list(argument, Kind::kBool);
        break;
      case Global::kTensorList:
        push_list(argument, Kind::kTensor);
        break;
      case Global::kTypeTag:
        restore_type(argument);
        break;
      case Global::kStorageType:
      case Global::kScheme:
        fail("it calls something that is no function");
    }
  }

  // Checks that a value is a tuple of exactly these kinds.
  void require(Index tuple, std::initializer_list<Kind> kinds, const char* what) {
    const auto given = items(tuple);
    const bool good = at(tuple).kind == Kind::kTuple && given.size() == kinds.size() &&
                      std::equal(kinds.begin(), kinds.end(), given.begin(),
                                 [&](Kind kind, Index item) { return at(item).kind == kind; });
    if (!good) fail(std::string(what) + " has the wrong arguments");
  }

  void push_list(Index argument, Kind kind) {
    require(argument, {Kind::kList}, "a typed list");
    const Index list = items(argument)[0];
    for (const Index item : items(list)) {
      if (at(item).kind != kind) fail("a typed list holds a value of another type");
    }
    if (source_.debug_table && kind == Kind::kInt) int_lists_.push_back(list);
    stack_.push_back({list, false});
  }

  void restore_type(Index argument) {
    const auto given = items(argument);
    if (at(argument).kind != Kind::kTuple || given.size() != 2 ||
        (at(given[0]).kind != Kind::kList && at(given[0]).kind != Kind::kDict) ||
        at(given[1]).kind != Kind::kString) {
      fail("a type tag has the wrong arguments");
    }
    // LibTorch parses the type as code, which may name classes.
    const std::string_view type = text_of(given[1]);
    if (judged_.emplace(type).second) scan_code(lex_code(type), source_.path, state_);
    stack_.push_back({given[0], false});
  }

  // ("storage", torch.FloatStorage, "0", "cpu", 16)
  void push_storage() {
    const Index argument = pop();
    require(argument, {Kind::kString, Kind::kGlobal, Kind::kString, Kind::kString, Kind::kInt},
            "a storage");
    const auto given = items(argument);
    const Index type_index = at(given[1]).begin;
    const PickleGlobal type = globals_[type_index];
    const std::string key(text_of(given[2]));
    const std::int64_t elements = at(given[4]).integer;
    if (text_of(given[0]) != "storage" || type.kind != PickleGlobal::Kind::kStorageType) {
      fail("a persistent id is no storage");
    }
    if (elements < 0 || elements > INT64_MAX / 16) fail("a storage has an impossible size");
    if (elements > 0) {
      const auto size = source_.storage_size(key);
      if (!size) fail("the record of the storage \"" + key + "\" is missing");
      if (static_cast<std::uint64_t>(elements) * type.item_bytes > *size) {
        fail("the storage \"" + key + "\" claims " + std::to_string(elements) + " elements of " +
             std::to_string(type.item_bytes) + " bytes, but its record has " +
             std::to_string(*size) + " bytes");
      }
    }
    const std::string_view device = text_of(given[3]);
    if (device != "cpu" && devices_.insert(std::string(device)).second) {
      state_.note("device_literal", "tensors were saved on device \"" + std::string(device) + "\"",
                  source_.path);
    }
    push(Kind::kStorage, elements);
    at(stack_.back().value).begin = type_index;
  }

  std::vector<std::int64_t> numbers(Index tuple) {
    if (at(tuple).kind != Kind::kTuple) fail("a tensor's shape is no tuple");
    std::vector<std::int64_t> result;
    for (const Index item : items(tuple)) {
      if (at(item).kind != Kind::kInt || at(item).integer < 0) {
        fail("a tensor's shape holds something else than sizes");
      }
      result.push_back(at(item).integer);
    }
    return result;
  }

  // (storage, offset, sizes, strides, [scheme,] requires_grad, hooks[, bits])
  void push_tensor(Index argument, bool quantized) {
    if (at(argument).kind != Kind::kTuple) fail("a tensor has the wrong arguments");
    const std::vector<Index> given(items(argument).begin(), items(argument).end());
    const std::size_t least = quantized ? 7 : 6;
    if (given.size() < least || given.size() > least + (quantized ? 0 : 1) ||
        at(given[0]).kind != Kind::kStorage || at(given[1]).kind != Kind::kInt) {
      fail("a tensor has the wrong arguments");
    }
    const PickleGlobal type = global_of(given[0]);
    const auto sizes = numbers(given[2]);
    const auto strides = numbers(given[3]);
    if (sizes.size() != strides.size() || sizes.size() > 64) fail("a tensor's shape is impossible");
    std::int64_t elements = 1;
    std::int64_t last = at(given[1]).integer;  // the furthest element
    bool overflow = last < 0;
    for (std::size_t d = 0; d < sizes.size(); ++d) {
      std::int64_t reach = 0;
      overflow |= __builtin_mul_overflow(elements, sizes[d], &elements);
      overflow |=
          __builtin_mul_overflow(std::max<std::int64_t>(sizes[d] - 1, 0), strides[d], &reach);
      overflow |= __builtin_add_overflow(last, reach, &last);
    }
    const std::int64_t room = at(given[0]).integer * type.items_per_byte;
    if (overflow || (elements > 0 && last >= room)) {
      fail("a tensor reaches beyond its storage of " + std::to_string(room) + " elements");
    }
    if (quantized) check_scheme(given[4], sizes);
    const std::size_t flag = quantized ? 5 : 4;
    if (at(given[flag]).kind != Kind::kBool || at(given[flag + 1]).kind != Kind::kNone) {
      fail("a tensor has the wrong arguments");
    }
    push(Kind::kTensor, elements);
    at(stack_.back().value).size = static_cast<Index>(sizes.size());
  }

  // (torch.per_channel_affine, scales, zero_points, axis) or (torch.per_tensor_affine, scale, zero)
  void check_scheme(Index tuple, const std::vector<std::int64_t>& sizes) {
    const auto given = items(tuple);
    const bool named = at(tuple).kind == Kind::kTuple && !given.empty() &&
                       at(given[0]).kind == Kind::kGlobal &&
                       global_of(given[0]).kind == PickleGlobal::Kind::kScheme;
    if (!named) fail("a quantised tensor has no scheme");
    if (!global_of(given[0]).per_channel) {
      require(tuple, {Kind::kGlobal, Kind::kFloat, Kind::kInt}, "a quantisation scheme");
      return;
    }
    require(tuple, {Kind::kGlobal, Kind::kTensor, Kind::kTensor, Kind::kInt},
            "a quantisation scheme");
    const std::int64_t axis = at(given[3]).integer;
    const bool axis_good = axis >= 0 && axis < static_cast<std::int64_t>(sizes.size());
    for (std::size_t i = 1; i <= 2; ++i) {
      const Value& parameters = at(given[i]);
      if (!axis_good || parameters.size != 1 ||
          parameters.integer != sizes[static_cast<std::size_t>(axis)]) {
        fail("a quantised tensor's scales do not fit its shape");
      }
    }
  }

  // ("FORMAT_WITH_STRING_TABLE", (text, ...), ...), where lists of integers index the texts.
  void check_debug_table() {
    const Value& root = at(stack_.back().value);
    std::int64_t texts = 0;
    if (root.kind == Kind::kTuple && root.size > 1 && at(items(root)[1]).kind == Kind::kTuple) {
      const auto table = items(items(root)[1]);
      const bool all = std::all_of(table.begin(), table.end(),
                                   [&](Index item) { return at(item).kind == Kind::kString; });
      texts = all ? static_cast<std::int64_t>(table.size()) : 0;
    }
    for (const Index list : int_lists_) {
      for (const Index item : items(list)) {
        if (at(item).integer < 0 || at(item).integer >= texts) {
          fail("a source position refers to a text that is not there");
        }
      }
    }
  }

  const PickleSource& source_;
  std::span<const std::byte> bytes_;
  ScanState& state_;
  std::size_t at_ = 0;
  std::size_t opcode_at_ = 0;
  std::vector<Value> values_;
  std::vector<Index> children_;
  std::vector<PickleGlobal> globals_;
  std::vector<Index> popped_;
  std::array<Index, 256> small_{};
  std::size_t fills_ = 0;
  std::vector<Slot> stack_;
  std::vector<std::size_t> marks_;
  std::vector<Index> memo_;
  std::vector<Index> int_lists_;
  std::unordered_set<std::string> judged_;
  std::unordered_set<std::string> devices_;
};

}  // namespace

void scan_pickle(const PickleSource& source, ScanState& state) {
  PickleScanner(source, state).run();
}

}  // namespace isthmus::detail
