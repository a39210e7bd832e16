#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <iostream>
#include <string_view>

#include "core/report/report_row.h"
#include "isthmus/report.h"

namespace isthmus {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

constexpr std::string_view kRed = "\033[31m";
constexpr std::string_view kGreen = "\033[32m";
constexpr std::string_view kBold = "\033[1m";
constexpr std::string_view kReset = "\033[0m";
constexpr std::size_t kGap = 2;

bool wants_colour(const std::ostream& out) {
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  if (&out == &std::cout) return isatty(STDOUT_FILENO) == 1;
  if (&out == &std::cerr) return isatty(STDERR_FILENO) == 1;
  return false;
}

// Returns the number of code points, which is the width on the screen.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

// Returns true for one quantity, perhaps with a unit: "-1.2e-07", "100 %", "3 x", "1/0".
bool is_number(std::string_view text) {
  const auto digit = text.find_first_not_of("+-");
  if (digit == std::string_view::npos || text[digit] < '0' || text[digit] > '9') return false;
  const auto unit = text.find(' ');
  return unit == std::string_view::npos ||
         text.find_first_of("0123456789", unit) == std::string_view::npos;
}

struct Column {
  std::string name;
  std::size_t width = 0;
  bool numbers = false;  // there are cells with numbers
  bool words = false;    // there are cells that are neither numbers nor absent
  [[nodiscard]] bool to_the_right() const { return numbers && !words; }
};

class ConsoleReporter final : public Reporter {
 public:
  ConsoleReporter(std::ostream& out, std::string title)
      : out_(out), title_(std::move(title)), colour_(wants_colour(out)) {}

  void context(const Pairs& facts) override {
    facts_.insert(facts_.end(), facts.begin(), facts.end());
  }

  void row(const ReportRow& row) override {
    detail::require_distinct_columns(row);
    for (const auto& [name, text] : row.cells) add_to_column(name, text);
    rows_.push_back(row);
  }

  void finish(bool passed, const std::string& verdict) override {
    if (!title_.empty()) out_ << paint(title_, kBold) << '\n';
    print_facts();
    if (!rows_.empty()) print_table();
    if (!verdict.empty()) out_ << '\n' << paint(verdict, kBold, passed ? kGreen : kRed) << '\n';
    out_.flush();
  }

 private:
  void add_to_column(const std::string& name, const std::string& text) {
    auto column = std::find_if(columns_.begin(), columns_.end(),
                               [&](const Column& known) { return known.name == name; });
    if (column == columns_.end())
      column = columns_.insert(columns_.end(), Column{.name = name, .width = width_of(name)});
    column->width = std::max(column->width, width_of(text));
    const bool absent = text.empty() || text == "-";
    column->numbers |= is_number(text);
    column->words |= !absent && !is_number(text);
  }

  void print_facts() {
    std::size_t width = 0;
    for (const auto& [name, value] : facts_) width = std::max(width, width_of(name));
    for (const auto& [name, value] : facts_)
      out_ << "  " << name << std::string(width - width_of(name) + kGap, ' ') << value << '\n';
  }

  void print_table() {
    out_ << '\n';
    std::vector<std::string> names;
    for (const Column& column : columns_) names.push_back(column.name);
    out_ << "  " << paint(line(names), kBold) << '\n';
    for (const ReportRow& row : rows_) {
      std::vector<std::string> texts;
      for (const Column& column : columns_) {
        const auto cell = std::find_if(row.cells.begin(), row.cells.end(), [&](const auto& named) {
          return named.first == column.name;
        });
        texts.push_back(cell == row.cells.end() ? "-" : cell->second);
      }
      out_ << "  " << (row.passed ? line(texts) : paint(line(texts), kRed)) << '\n';
      if (!row.reason.empty()) print_reason(row);
    }
  }

  void print_reason(const ReportRow& row) {
    std::string text = row.reason;
    // All lines of a long reason are indented.
    for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 5)
      text.replace(at, 1, "\n    ");
    out_ << "    " << (row.passed ? text : paint(text, kRed)) << '\n';
  }

  [[nodiscard]] std::string line(const std::vector<std::string>& texts) const {
    std::string result;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const std::string padding(columns_[i].width - width_of(texts[i]), ' ');
      if (i > 0) result.append(kGap, ' ');
      result += columns_[i].to_the_right() ? padding + texts[i] : texts[i] + padding;
    }
    result.erase(result.find_last_not_of(' ') + 1);
    return result;
  }

  template <typename... Codes>
  [[nodiscard]] std::string paint(const std::string& text, Codes... codes) const {
    if (!colour_) return text;
    std::string result;
    (result.append(codes), ...);
    return result + text + std::string(kReset);
  }

  std::ostream& out_;
  std::string title_;
  bool colour_;
  Pairs facts_;
  std::vector<Column> columns_;
  std::vector<ReportRow> rows_;
};

}  // namespace

Reporter::~Reporter() = default;

std::unique_ptr<Reporter> console_reporter(std::ostream& out, std::string title) {
  return std::make_unique<ConsoleReporter>(out, std::move(title));
}

}  // namespace isthmus
