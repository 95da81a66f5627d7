// Convolutions of float32 NHWC images by oneDNN, called by XLA:CPU through its foreign function interface.
//
// The images of a batch are split over XLA's own threads. Each part is a primitive of oneDNN that runs in one thread,
// so that no second pool of threads (OpenMP's) competes with XLA's. Parts depend on shapes and the number of threads
// alone, and partial sums are added in the order of the parts: the same machine gives the same bits.
//
// A convolution is y[N,OH,OW,D] = x[N,H,W,C] * w[kh,kw,C,D], or w[kh,kw,1,C] if it is depthwise. The kinds are
//   0: (x, w) -> y,   1: (y's cotangent, w) -> that of x,   2: (x, y's cotangent) -> that of w.

#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dnnl.hpp"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Floats = ffi::Buffer<ffi::F32>;

enum Field { KIND, DEPTHWISE, N, H, W, C, OH, OW, D, KH, KW, SH, SW, DH, DW, TOP, BOTTOM, LEFT, RIGHT, FIELDS };
using Shape = std::array<int64_t, FIELDS>;
enum Kind { FORWARD, INPUT, KERNEL };

// More are forgotten all at once: a search over networks may meet any number of shapes.
constexpr size_t kMostPlans = 4096;
// Smaller work is done by the calling thread: waking another one costs as much.
constexpr double kLeastProducts = 2e5;

const dnnl::engine& Engine() {
  static const auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);  // never destroyed: XLA's threads may outlive
  return *engine;
}

// While it lives, OpenMP has one thread for whatever this thread calls.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }

 private:
  int before_;
};

// Memory of a thread that is used again by its next call.
class Scratch {
 public:
  ~Scratch() { Free(); }
  void* AtLeast(size_t bytes) {
    if (bytes > size_) {
      Free();
      data_ = ::operator new(bytes, std::align_val_t(64));
      size_ = bytes;
    }
    return data_;
  }

 private:
  void Free() {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t(64));
    data_ = nullptr;
    size_ = 0;
  }
  void* data_ = nullptr;
  size_t size_ = 0;
};


// What is compiled for a shape.
struct Plan {
  memory::desc first, second, out, inner, given;  // of the primitive's arguments; w within and outside of it
  int first_arg, second_arg, out_arg;
  dnnl::primitive convolution, reorder;
  size_t scratch = 0;
  bool reorders = false;
  std::string implementation;
};

dnnl::primitive_attr Attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // so that threads may share a primitive
  attributes.set_fpmath_mode(dnnl::fpmath_mode::strict);        // whatever the environment says
  return attributes;
}

std::unique_ptr<Plan> MakePlan(const Shape& s, bool compile) {
  OneThread one;
  auto plan = std::make_unique<Plan>();
  const auto type = memory::data_type::f32;
  const auto any = memory::format_tag::any, nhwc = memory::format_tag::nhwc;
  const bool deep = s[DEPTHWISE] != 0;
  const memory::dims kernel = deep ? memory::dims{s[C], 1, 1, s[KH], s[KW]} : memory::dims{s[D], s[C], s[KH], s[KW]};
  const memory::desc x({s[N], s[C], s[H], s[W]}, type, nhwc), y({s[N], s[D], s[OH], s[OW]}, type, nhwc);
  const memory::desc w(kernel, type, any);
  plan->given = memory::desc(kernel, type, deep ? memory::format_tag::hwigo : memory::format_tag::hwio);
  const memory::dims strides{s[SH], s[SW]}, dilation{s[DH] - 1, s[DW] - 1}, low{s[TOP], s[LEFT]}, high{s[BOTTOM], s[RIGHT]};
  const auto attributes = Attributes();
  const auto direct = dnnl::algorithm::convolution_direct;
  const dnnl::convolution_forward::primitive_desc forward(
      Engine(), s[KIND] == FORWARD ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training, direct, x, w,
      y, strides, dilation, low, high, attributes);
  const auto take = [&](const auto& description, auto make) {
    plan->scratch = description.scratchpad_desc().get_size();
    plan->implementation = description.impl_info_str();
    if (compile) plan->convolution = make(description);
  };
  plan->first = s[KIND] == INPUT ? y : x;
  plan->second = y;
  plan->out = s[KIND] == INPUT ? x : y;
  if (s[KIND] == FORWARD) {
    plan->inner = forward.weights_desc();
    plan->first_arg = DNNL_ARG_SRC, plan->second_arg = DNNL_ARG_WEIGHTS, plan->out_arg = DNNL_ARG_DST;
    take(forward, [](const auto& d) { return dnnl::convolution_forward(d); });
  } else if (s[KIND] == INPUT) {
    const dnnl::convolution_backward_data::primitive_desc backward(Engine(), direct, x, w, y, strides, dilation, low, high,
                                                                  forward, attributes);
    plan->inner = backward.weights_desc();
    plan->first_arg = DNNL_ARG_DIFF_DST, plan->second_arg = DNNL_ARG_WEIGHTS, plan->out_arg = DNNL_ARG_DIFF_SRC;
    take(backward, [](const auto& d) { return dnnl::convolution_backward_data(d); });
  } else {
    const dnnl::convolution_backward_weights::primitive_desc backward(Engine(), direct, x, w, y, strides, dilation, low,
                                                                     high, forward, attributes);
    plan->inner = backward.diff_weights_desc();
    plan->first_arg = DNNL_ARG_SRC, plan->second_arg = DNNL_ARG_DIFF_DST, plan->out_arg = DNNL_ARG_DIFF_WEIGHTS;
    take(backward, [](const auto& d) { return dnnl::convolution_backward_weights(d); });
  }
  plan->reorders = plan->inner != plan->given;
  if (compile && plan->reorders) {
    const auto& from = s[KIND] == KERNEL ? plan->inner : plan->given;
    const auto& to = s[KIND] == KERNEL ? plan->given : plan->inner;
    const dnnl::reorder::primitive_desc description(Engine(), from, Engine(), to, attributes);
    plan->scratch = std::max(plan->scratch, description.scratchpad_desc().get_size());
    plan->reorder = dnnl::reorder(description);
  }
  return plan;
}

std::shared_ptr<const Plan> PlanOf(const Shape& shape) {
  static auto* lock = new std::mutex;
  static auto* plans = new std::map<Shape, std::shared_ptr<const Plan>>;
  {
    std::lock_guard<std::mutex> held(*lock);
    if (auto found = plans->find(shape); found != plans->end()) return found->second;
  }
  std::shared_ptr<const Plan> made = MakePlan(shape, true);
  std::lock_guard<std::mutex> held(*lock);
  if (plans->size() >= kMostPlans) plans->clear();
  return plans->emplace(shape, made).first->second;
}

struct Argument {
  int name;
  const memory::desc* description;
  const void* data;
};

void Execute(const dnnl::primitive& primitive, size_t scratch_bytes, std::initializer_list<Argument> arguments) {
  static thread_local Scratch scratch;
  static thread_local dnnl::stream stream(Engine());
  OneThread one;
  std::unordered_map<int, memory> memories;
  for (const auto& a : arguments)
    memories.emplace(a.name, memory(*a.description, Engine(), const_cast<void*>(a.data)));
  if (scratch_bytes > 0) {
    const memory::desc bytes({static_cast<int64_t>(scratch_bytes)}, memory::data_type::u8, memory::format_tag::a);
    memories.emplace(DNNL_ARG_SCRATCHPAD, memory(bytes, Engine(), scratch.AtLeast(scratch_bytes)));
  }
  primitive.execute(stream, memories);
  stream.wait();
}

// Parts of one call, which the calling thread and helpers from XLA's pool take until none is left. The caller does not
// wait for helpers that have not begun, so calls that keep every thread of the pool busy cannot wait for each other.
class Parts {
 public:
  template <typename F>
  static std::string Run(ffi::ThreadPool pool, int count, const F& work) {
    auto parts = std::make_shared<Parts>(count, [&work](int i) { work(i); });
    for (int i = 1; i < count; ++i) pool.Schedule([parts] { parts->Take(); });
    parts->Take();
    std::unique_lock<std::mutex> held(parts->lock_);
    parts->all_done_.wait(held, [&] { return parts->done_ == count; });
    return parts->problem_;
  }

  Parts(int count, std::function<void(int)> work) : count_(count), work_(std::move(work)) {}

 private:
  void Take() {
    for (int i = next_++; i < count_; i = next_++) {
      std::string problem;
      try {
        work_(i);
      } catch (const std::exception& e) {
        problem = e.what();
      }
      std::lock_guard<std::mutex> held(lock_);
      if (!problem.empty()) problem_ = problem;
      if (++done_ == count_) all_done_.notify_all();
    }
  }

  const int count_;
  const std::function<void(int)> work_;  // not called once the caller has gone on: then no part is left
  std::atomic<int> next_{0};
  std::mutex lock_;
  std::condition_variable all_done_;
  int done_ = 0;
  std::string problem_;
};

struct Part {
  int64_t first;
  std::shared_ptr<const Plan> plan;
};

std::vector<Part> Split(Shape shape, int64_t threads) {
  const double products = 1.0 * shape[N] * shape[OH] * shape[OW] * shape[D] * shape[KH] * shape[KW] *
                          (shape[DEPTHWISE] ? 1 : shape[C]);
  const int64_t images = shape[N], most = std::max<int64_t>(1, static_cast<int64_t>(products / kLeastProducts));
  const int64_t count = std::max<int64_t>(1, std::min({threads, images, most}));
  std::vector<Part> parts;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = images * i / count;
    shape[N] = images * (i + 1) / count - first;
    parts.push_back({first, PlanOf(shape)});
  }
  return parts;
}

std::string Convolve(ffi::ThreadPool pool, const Shape& shape, const float* a, const float* b, float* out) {
  static thread_local Scratch weights;
  const auto parts = Split(shape, pool.num_threads());
  const Plan& plan = *parts[0].plan;  // w is laid out alike in all, or Convolve would be refused below
  for (const auto& part : parts)
    if (part.plan->inner != plan.inner) return "parts of one batch have different layouts of weights";
  const size_t bytes = (plan.inner.get_size() + 63) / 64 * 64;
  const int64_t in_x = shape[H] * shape[W] * shape[C], in_y = shape[OH] * shape[OW] * shape[D];
  const int count = static_cast<int>(parts.size());

  if (shape[KIND] == KERNEL) {
    const bool direct = count == 1 && !plan.reorders;
    char* sums = direct ? reinterpret_cast<char*>(out) : static_cast<char*>(weights.AtLeast(bytes * count));
    const auto problem = Parts::Run(pool, count, [&](int i) {
      const Plan& p = *parts[i].plan;
      Execute(p.convolution, p.scratch,
              {{p.first_arg, &p.first, a + parts[i].first * in_x},
               {p.second_arg, &p.second, b + parts[i].first * in_y},
               {p.out_arg, &p.inner, sums + bytes * i}});
    });
    if (!problem.empty() || direct) return problem;
    float* total = reinterpret_cast<float*>(sums);
    const size_t floats = plan.inner.get_size() / sizeof(float);
    for (int i = 1; i < count; ++i) {
      const float* more = reinterpret_cast<const float*>(sums + bytes * i);
      for (size_t j = 0; j < floats; ++j) total[j] += more[j];
    }
    if (!plan.reorders)
      std::memcpy(out, total, plan.inner.get_size());
    else
      Execute(plan.reorder, plan.scratch, {{DNNL_ARG_FROM, &plan.inner, total}, {DNNL_ARG_TO, &plan.given, out}});
    return "";
  }

  const void* w = b;
  if (plan.reorders) {
    void* laid_out = weights.AtLeast(bytes);
    Execute(plan.reorder, plan.scratch, {{DNNL_ARG_FROM, &plan.given, b}, {DNNL_ARG_TO, &plan.inner, laid_out}});
    w = laid_out;
  }
  const int64_t in_first = shape[KIND] == FORWARD ? in_x : in_y, in_out = shape[KIND] == FORWARD ? in_y : in_x;
  return Parts::Run(pool, count, [&](int i) {
    const Plan& p = *parts[i].plan;
    Execute(p.convolution, p.scratch,
            {{p.first_arg, &p.first, a + parts[i].first * in_first},
             {p.second_arg, &p.inner, w},
             {p.out_arg, &p.out, out + parts[i].first * in_out}});
  });
}

ffi::Error Call(ffi::ThreadPool pool, Floats a, Floats b, ffi::Result<Floats> out, ffi::Span<const int64_t> fields) {
  if (fields.size() != FIELDS) return ffi::Error::InvalidArgument("jaxnas_onednn: another number of fields was expected");
  Shape s;
  std::copy(fields.begin(), fields.end(), s.begin());
  const size_t x = s[N] * s[H] * s[W] * s[C], y = s[N] * s[OH] * s[OW] * s[D];
  const size_t w = s[KH] * s[KW] * s[D] * (s[DEPTHWISE] ? 1 : s[C]);
  const size_t sizes[3][3] = {{x, w, y}, {y, w, x}, {x, y, w}};
  if (s[KIND] < FORWARD || s[KIND] > KERNEL) return ffi::Error::InvalidArgument("jaxnas_onednn: unknown kind");
  const size_t* expected = sizes[s[KIND]];
  if (a.element_count() != expected[0] || b.element_count() != expected[1] || out->element_count() != expected[2])
    return ffi::Error::InvalidArgument("jaxnas_onednn: the arrays are not of the convolution's shape");
  try {
    const auto problem = Convolve(pool, s, a.typed_data(), b.typed_data(), out->typed_data());
    return problem.empty() ? ffi::Error::Success() : ffi::Error::Internal("jaxnas_onednn: " + problem);
  } catch (const std::exception& e) {
    return ffi::Error::Internal(std::string("jaxnas_onednn: ") + e.what());
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxnas_onednn_convolution, Call,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Attr<ffi::Span<const int64_t>>("fields"));

extern "C" {

// The name of oneDNN's kernel for a convolution, "" if it has none. Valid until this thread's next call.
const char* jaxnas_onednn_implementation(const int64_t* fields) {
  static thread_local std::string name;
  Shape shape;
  std::copy(fields, fields + FIELDS, shape.begin());
  try {
    name = MakePlan(shape, false)->implementation;
  } catch (const std::exception&) {
    name.clear();
  }
  return name.c_str();
}

// The library's version, major * 10000 + minor * 100 + patch.
int jaxnas_onednn_version() {
  const auto* v = dnnl_version();
  return v->major * 10000 + v->minor * 100 + v->patch;
}
}
