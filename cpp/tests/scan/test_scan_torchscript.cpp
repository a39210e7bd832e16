#include <doctest/doctest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

#include "isthmus/scan.h"
#include "tests/zip_writer.h"

using namespace isthmus;
using isthmus::testing::as_bytes;
using isthmus::testing::deflated;
using isthmus::testing::ZipRecord;
using isthmus::testing::ZipWriter;

namespace {

// PROTO 2, GLOBAL '__torch__ M', EMPTY_TUPLE, NEWOBJ, EMPTY_DICT, BUILD, STOP
const std::string kObject = std::string(
    "\x80\x02"
    "c__torch__\nM\n)\x81}b.");
const std::string kNoConstants = "\x80\x02).";

std::string pickle(const std::string& body) {
  return "\x80\x02" + body + ".";
}
std::string text(const std::string& value) {
  return std::string("X") + static_cast<char>(value.size()) + std::string(3, '\0') + value;
}
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string number(int value) {
  return std::string("K") + static_cast<char>(value);
}

// The storage "0" with `claimed` floats.
std::string storage(int claimed) {
  return "(" + text("storage") + global("torch", "FloatStorage") + text("0") + text("cpu") +
         number(claimed) + "tQ";
}
std::string tensor(int claimed, int offset, int size, int stride) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage(claimed) + number(offset) +
         number(size) + "\x85" + number(stride) + "\x85" + "\x89" +
         global("collections", "OrderedDict") + ")RtR";
}

std::string module_code(const std::string& body) {
  return "class M(Module):\n  __parameters__ = []\n  w : Tensor\n"
         "  def forward(self: __torch__.M,\n    x: Tensor) -> Tensor:\n" +
         body + "    return x\n";
}

std::vector<ZipRecord> records(const std::string& code, const std::string& data = kObject,
                               const std::string& constants = kNoConstants) {
  return {{.name = "m/data/0", .data = std::string(16, 'w')},
          {.name = "m/data.pkl", .data = data},
          {.name = "m/code/__torch__.py", .data = code},
          {.name = "m/constants.pkl", .data = constants},
          {.name = "m/version", .data = "3\n"}};
}

ArchiveScan scan(const std::vector<ZipRecord>& zip, const std::set<std::string>& allowed = {}) {
  const std::string bytes = ZipWriter::write(zip);
  return scan_torchscript(as_bytes(bytes), allowed);
}

void refuses_code(const std::string& line, const char* what) {
  CAPTURE(line);
  const ArchiveScan result = scan(records(module_code("    " + line + "\n")));
  CHECK(result.refused());
  CHECK_MESSAGE(result.describe().find(what) != std::string::npos, result.describe());
  CHECK_MESSAGE(result.describe().find("code/__torch__.py:6") != std::string::npos,
                result.describe());
}
void allows_code(const std::string& line) {
  CAPTURE(line);
  const ArchiveScan result = scan(records(module_code("    " + line + "\n")));
  CHECK_MESSAGE(!result.refused(), result.describe());
}
void refuses_data(const std::string& body, const char* what) {
  const ArchiveScan result = scan(records(module_code(""), pickle(body)));
  CHECK(result.refused());
  CHECK_MESSAGE(result.describe().find(what) != std::string::npos, result.describe());
}
void refuses_zip(const std::vector<ZipRecord>& zip, const char* what) {
  const ArchiveScan result = scan(zip);
  CHECK(result.refused());
  CHECK_MESSAGE(result.describe().find(what) != std::string::npos, result.describe());
}

}  // namespace

TEST_CASE("a good archive passes, and its facts are reported") {
  const ArchiveScan result = scan(
      records(module_code("    y = torch.add(torch.rand_like(x), x)\n"
                          "    z = torch.zeros([2], dtype=6, device=torch.device(\"cuda:0\"))\n"
                          "    a = torch.zeros([2], dtype=23)\n"
                          "    b = torch.zeros([2], dtype=27)\n")));
  CHECK_MESSAGE(!result.refused(), result.describe());
  CHECK(result.format == "torchscript");
  CHECK(result.file_format_version == 3);
  CHECK(result.operators.at("aten::add") == 1);
  CHECK(result.code.contains("code/__torch__.py"));
  std::set<std::string> kinds;
  for (const Finding& finding : result.findings) kinds.insert(finding.kind + ": " + finding.what);
  CHECK(kinds.contains("device_literal: device literal \"cuda:0\""));
  CHECK(kinds.contains("dtype_literal: dtype literal float32"));
  CHECK(kinds.contains("dtype_literal: dtype literal float8_e5m2"));
  CHECK(kinds.contains("dtype_literal: dtype literal uint16"));
  CHECK(kinds.contains("random_operator: operator aten::rand_like draws random numbers"));
}

TEST_CASE("code: a name that could become an effectful operator is refused") {
  refuses_code("torch.save(x, \"f\")", "aten::save writes a file");
  refuses_code("y = torch.from_file(\"/etc/passwd\", False, 4)", "aten::from_file maps a file");
  refuses_code("ops.aten.save(x, \"f\")", "aten::save");
  refuses_code("x.save(\"f\")", "aten::save");
  refuses_code("(x).save(\"f\")", "aten::save");
  refuses_code("x . save (\"f\")", "aten::save");
  refuses_code("[x][0].save(\"f\")", "aten::save");
  refuses_code("1e5.save(\"f\")", "aten::save");
  refuses_code("f = torch.save", "aten::save");
  refuses_code("f = x.save", "aten::save");
  refuses_code("t = torch", "`torch` stands alone");
  refuses_code("o = ops", "`ops` stands without");
  refuses_code("o = ops.aten", "`ops` stands without");
  refuses_code("torch.autograd.save(x, \"f\")", "aten::save");
  refuses_code("g = getattr", "getattr");
  refuses_code("getattr(x, \"save\")(\"f\")", "aten::save");
  refuses_code("getattr(x, \"sa\\166e\")(\"f\")", "without a plain name");
  refuses_code("getattr(x, n)(\"f\")", "without a plain name");
  refuses_code("torch.manual_seed(1)", "whole process");
  refuses_code("ops.prim.rpc_async(x)", "other processes");
  refuses_code("ops.c10d.send(x)", "other processes");
  refuses_code("ops.prim.PythonOp(x)", "Python");
  refuses_code("^Foo()(x)", "Python");
  refuses_code("ops.prims.add(x, x)", "Python");
  refuses_code("y = torch.set_(x, x)", "other memory");
  refuses_code("y = torch._sparse_coo_tensor_unsafe(x, x, [2])", "sparse");
  refuses_code("y = torch.frobnicate(x)", "not on the list");
  refuses_code("y = x.frobnicate()", "neither defined");
  refuses_code("os.system(\"x\")", "neither defined");
  refuses_code("eval(\"1\")", "does not define");
  refuses_code("y = __torch__.N()", "not defined in the archive");
  refuses_code("c = __torch__", "not defined in the archive");
  refuses_code("c = __torch__.torch.classes", "not defined in the archive");
  refuses_code("c = __torch__.torch.classes.dist_c10d.TCPStore(\"h\", 1)", "other processes");
  refuses_code("c = __torch__.torch.classes.my.Thing(1)", "library");
}

TEST_CASE("code: syntax that could deceive a lexer is refused") {
  refuses_code("y = \"\"\"x\"\"\"", "triple quotes");
  refuses_code("y = \"x", "without an end");
  refuses_code("y = 1 # type: int", "type comment");
  refuses_code("y = \\\n    1", "backslash");
  refuses_code("y = x\r", "control");
  refuses_code("y = x\xc2\xa0", "control or non-ASCII");
  refuses_code(std::string(400, '(') + "x" + std::string(400, ')'), "nested too deeply");
  std::string chain = "y = x";
  for (int i = 0; i < 400; ++i) chain += " + x";
  refuses_code(chain, "too long");
  allows_code("y = 1 # torch.save(x)");
  allows_code("print(\"torch.save(x)\", '\\'x.save()')");
}

TEST_CASE("code: code that torch writes passes") {
  allows_code("y = (self).forward(x, )");
  allows_code("w = self.w");
  allows_code("y = getattr(self, \"0\")");
  allows_code("_0 = __torch__.M.forward\n    y = _0(self, x, )");
  allows_code(
      "if torch.gt(torch.size(x, 0), 0):\n      pass\n    else:\n"
      "      ops.prim.RaiseException(torch.add(\"a\", \"b\"), \"builtins.ValueError\")");
  allows_code("d = annotate(Dict[str, List[int]], {})");
  allows_code("p = ops.quantized.linear_prepack(x, None)");
  allows_code("y = torch.select(x, 0, -1) if True else x");
  allows_code("c : __torch__.torch.classes.quantized.LinearPackedParamsBase = x");
}

TEST_CASE("code: __setstate__ and files that are not imported are scanned") {
  auto zip = records(module_code(""));
  zip.push_back({.name = "m/code/__torch__/hidden.py",
                 .data = "class H:\n  def __setstate__(self, s: Tensor) -> NoneType:\n"
                         "    torch.save(s, \"f\")\n    return None\n"});
  refuses_zip(zip, "code/__torch__/hidden.py:3: operator aten::save");
  zip.back() = {.name = "m/CODE/__torch__/hidden.py", .data = "def f():\n  pass\n"};
  refuses_zip(zip, "no .py file");
}

TEST_CASE("code: custom operators need their library") {
  const auto zip = records(module_code("    y = ops.my_ops.twice(x)\n"));
  const ArchiveScan unknown = scan(zip);
  CHECK(unknown.refused());
  CHECK(unknown.unknown_namespaces == std::set<std::string>{"my_ops"});
  CHECK(unknown.describe().find("--op-library libmy_ops.so") != std::string::npos);
  const ArchiveScan allowed = scan(zip, {"my_ops"});
  CHECK_MESSAGE(!allowed.refused(), allowed.describe());
  CHECK(allowed.operators.at("my_ops::twice") == 1);
  // A library does not allow the operators of other namespaces.
  CHECK(scan(records(module_code("    torch.save(x, \"f\")\n")), {"my_ops", "aten"}).refused());
}

TEST_CASE("findings that are left out are counted") {
  std::string bad;
  for (int i = 0; i < 1500; ++i) bad += "    y = torch.save" + std::to_string(i) + "(x)\n";
  const ArchiveScan refused = scan(records(module_code(bad)));
  CHECK(refused.findings.size() == 1001);
  CHECK_MESSAGE(refused.describe().ends_with("500 further refusals are not listed"),
                refused.findings.back().what);
  std::string random;
  for (int i = 0; i < 1500; ++i) random += "    y = torch.rand_like(x)\n";
  const ArchiveScan noted = scan(records(module_code(random)));
  CHECK_FALSE(noted.refused());
  CHECK(noted.findings.back().what == "500 further notes are not listed");
  // Many notes do not hide a refusal.
  const ArchiveScan both = scan(records(module_code(random + bad)));
  CHECK(both.describe().find("aten::save1 ") != std::string::npos);
}

TEST_CASE("pickle: only values that TorchScript builds pass") {
  CHECK(!scan(records(module_code(""), pickle(tensor(4, 0, 4, 1)))).refused());
  refuses_data(global("os", "system") + text("true") + "\x85R", "os.system");
  refuses_data(global("posix", "system") + text("true") + "\x85R", "posix.system");
  refuses_data(global("torch.distributed.rpc", "rref") + ")R", "rref");
  refuses_data(global("torch._utils", "_rebuild_sparse_tensor") + ")R", "sparse");
  refuses_data(global("__torch__", "N") + ")\x81}b", "__torch__.N is not defined");
  refuses_data(global("__torch__.torch.classes.dist_c10d", "TCPStore") + ")\x81}b", "processes");
  refuses_data("i", "opcode");
  refuses_data(number(3) + ")R", "no global");
  refuses_data("h\x05", "not made yet");
  refuses_data("Nr\xff\xff\xff\x7f", "gaps");
  refuses_data(")R", "runs empty");
  refuses_data("tN", "mark");
  refuses_data("NN", "one value");
  refuses_data("]q" + std::string(1, '\0') + "(h" + std::string(1, '\0') + "e", "hold itself");
  refuses_data(global("torch.jit._pickle", "restore_type_tag") + "]" +
                   text("__torch__.torch.classes.my.T") + "\x86R",
               "library");
  CHECK(scan(records(module_code(""), kObject + "x")).describe().find("follow its end") !=
        std::string::npos);
  std::string deep;
  for (int i = 0; i < 600; ++i) deep += i == 0 ? ")" : "\x85";
  refuses_data(deep, "nested too deeply");
}

TEST_CASE("pickle: tensors are within their storages, storages within their records") {
  refuses_data(tensor(5, 0, 4, 1), "claims 5 elements");
  refuses_data(tensor(4, 0, 5, 1), "beyond its storage");
  refuses_data(tensor(4, 1, 4, 1), "beyond its storage");
  refuses_data(tensor(4, 0, 4, 2), "beyond its storage");
  auto zip = records(module_code(""), pickle(tensor(4, 0, 4, 1)));
  zip.erase(zip.begin());
  refuses_zip(zip, "is missing");
}

TEST_CASE("zip: archives that readers could see differently are refused") {
  const auto good = records(module_code(""));
  const auto with = [&](ZipRecord extra) {
    auto zip = good;
    zip.push_back(std::move(extra));
    return zip;
  };
  const std::string evil = module_code("    torch.save(x, \"f\")\n");
  refuses_zip(with({.name = "m/code/__torch__.py", .data = evil}), "same name");
  refuses_zip(with({.name = "m/CODE/__torch__.py", .data = evil}), "same name");
  refuses_zip(with({.name = "m//code/__torch__.py", .data = evil}), "empty part");
  refuses_zip(with({.name = "m/./code/__torch__.py", .data = evil}), "\".\"");
  refuses_zip(with({.name = "m/../x", .data = "x"}), "\"..\"");
  refuses_zip(with({.name = "/m/x", .data = "x"}), "absolute");
  refuses_zip(with({.name = "m\\x", .data = "x"}), "backslash");
  refuses_zip(with({.name = std::string("m/x\0y", 5), .data = "x"}), "control");
  refuses_zip(with({.name = "n/x", .data = "x"}), "second folder");
  refuses_zip(with({.name = "x", .data = "x"}), "outside the archive's folder");
  refuses_zip(with({.name = "m/model.json", .data = "{}"}), "before PyTorch 1.3");
  refuses_zip(with({.name = "m/x", .data = "x", .local_name = "m/y"}), "disagrees");
  refuses_zip(with({.name = "m/x", .data = "x", .hidden = "hidden"}), "hidden");
  refuses_zip(with({.name = "m/x", .data = "x", .size_lie = 1}), "sizes differ");
  refuses_zip(with({.name = "m/x", .data = "x", .method = 12, .unpacked = "x"}), "compression");
  refuses_zip(with({.name = "m/data/1", .data = deflated("x"), .method = 8, .unpacked = "x"}),
              "deflated");
  auto zip = good;
  zip[2].crc_lie = 1;
  refuses_zip(zip, "checksum");

  const auto describe = [](const std::string& bytes) {
    return scan_torchscript(as_bytes(bytes)).describe();
  };
  CHECK(describe(ZipWriter::write(good, "prefix")).find("before the first") != std::string::npos);
  CHECK(describe(ZipWriter::write(good, "", "note")).find("very end") != std::string::npos);
  CHECK(describe(ZipWriter::write(good) + "x").find("very end") != std::string::npos);
  CHECK(describe(ZipWriter::write(good) + ZipWriter::write(good)).find("directory") !=
        std::string::npos);
  CHECK(describe("\x18\0\0\0PTMF").find("zip") != std::string::npos);
  CHECK(scan_torchscript(as_bytes(std::string("\x18\0\0\0PTMF....", 12))).format ==
        "torchscript_flatbuffer");
}

TEST_CASE("zip: deflated code is unpacked and scanned, a zip bomb is not") {
  auto zip = records(module_code(""));
  const std::string evil = module_code("    torch.save(x, \"f\")\n");
  zip[2] = {.name = "m/code/__torch__.py", .data = deflated(evil), .method = 8, .unpacked = evil};
  refuses_zip(zip, "aten::save");
  zip[2].unpacked = module_code("");
  zip[2].data = deflated(zip[2].unpacked);
  CHECK(!scan(zip).refused());
  zip[2].data += "x";
  refuses_zip(zip, "damaged");
  zip[2].data = "abc";
  zip[2].unpacked = std::string(1 << 20, 'a');
  refuses_zip(zip, "believable");
}

TEST_CASE("damaged archives do not crash the scan") {
  const std::string code = module_code("    y = torch.add(x, 1)\n    z = getattr(self, \"0\")\n");
  auto zip = records(code, pickle(tensor(4, 0, 4, 1)));
  zip[2] = {.name = "m/code/__torch__.py", .data = deflated(code), .method = 8, .unpacked = code};
  zip.push_back({.name = "m/code/__torch__.py.debug_pkl",
                 .data = pickle(text("FORMAT_WITH_STRING_TABLE") + "(" + text("a") + "t" +
                                global("torch.jit._pickle", "build_intlist") + "](" + number(0) +
                                "e\x85R\x87")});
  const std::string good = ZipWriter::write(zip);
  const ArchiveScan result = scan_torchscript(as_bytes(good));
  REQUIRE_MESSAGE(!result.refused(), result.describe());
  for (std::size_t size = 0; size < good.size(); ++size) {
    const std::vector<char> exact(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK(scan_torchscript(std::as_bytes(std::span(exact))).refused());
  }
  std::mt19937 random(3);
  int refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::vector<char> damaged(good.begin(), good.end());
    for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    refused += scan_torchscript(std::as_bytes(std::span(damaged))).refused() ? 1 : 0;
  }
  CHECK(refused > 3000);
  // The same with valid checksums: damage in the pickle and the code.
  for (int i = 0; i < 5000; ++i) {
    auto copy = zip;
    std::string& data = copy[i % 2 == 0 ? 1 : 5].data;
    data[random() % data.size()] = static_cast<char>(random());
    scan(copy);
  }
}
