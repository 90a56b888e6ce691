/* The C interface, for binding from other languages: opaque handles, error codes with texts, and
 * structs that hold their own size, so that a program built against an older header goes on working
 * with a newer library. ldm_engine_image alone holds none: it stays as it is.
 *
 * Functions return LDM_ENGINE_OK or another code, and then ldm_engine_last_error() has the text.
 * Texts are UTF-8 and end with a zero byte. What a function puts into `out` belongs to the caller,
 * who gives it back with the matching free function. A pipeline serves one thread at a time; give
 * each thread its own with ldm_engine_clone(). */
#ifndef LDM_ENGINE_H
#define LDM_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "ldm_engine/visibility.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when something is added; what there is stays as it is. */
#define LDM_ENGINE_ABI_VERSION 1

/* The numbers are part of the interface. */
enum {
  LDM_ENGINE_OK = 0,
  LDM_ENGINE_ERROR = 1,            /* anything that has no code of its own */
  LDM_ENGINE_INVALID_ARGUMENT = 2, /* a value outside what is accepted */
  LDM_ENGINE_SHAPE = 3,            /* a size that does not suit the model */
  LDM_ENGINE_BUNDLE = 4,           /* incomplete, damaged, or of another version */
  LDM_ENGINE_BUNDLE_NOT_FOUND = 5,
  LDM_ENGINE_CONFIG = 6,              /* the scheduler config is not supported */
  LDM_ENGINE_RUNTIME_UNAVAILABLE = 7, /* runtime, device or precision not to be had here */
  LDM_ENGINE_NON_FINITE = 8,          /* an image came out as NaN or infinity */
  LDM_ENGINE_OUTPUT = 9               /* a file could not be written */
};

typedef struct ldm_engine_pipeline ldm_engine_pipeline;
typedef struct ldm_engine_result ldm_engine_result;

/* Where and how programs run. Texts may be NULL for their default. */
typedef struct ldm_engine_options {
  size_t size;           /* of this struct, as the caller knows it */
  const char* runtime;   /* "auto" */
  const char* device;    /* "cpu" */
  const char* precision; /* "fp32", "bf16" or "int8" */
  const char* memory;    /* "resident", "sequential" or "auto" */
  int32_t threads;       /* 0: all that this process may use */
  int32_t check_hashes;  /* 0 or 1 */
  int32_t cache;         /* 0 or 1: keep compiled models in the user's cache folder */
  int32_t reserved;      /* 0 */
} ldm_engine_options;

/* Called after each step with the live latents, `count` values; anything but 0 stops the run. */
typedef int32_t (*ldm_engine_step_callback)(void* user_data, int32_t step, int32_t timestep,
                                            float* latents, size_t count);

/* The fewest steps of the bundle's fitted solvers whose held-out pictures were as near to the
 * converged ones as with 50 steps of ddim. */
#define LDM_ENGINE_AUTO_STEPS INT32_MIN

/* One picture; the bytes of a result's live as long as the result does. */
typedef struct ldm_engine_image {
  int32_t width;
  int32_t height;
  const uint8_t* rgb; /* [height, width, 3] */
} ldm_engine_image;

/* The settings of one call. A list holds one value for all images or one an image; an empty one
 * means the default. */
typedef struct ldm_engine_request {
  size_t size;                   /* of this struct, as the caller knows it */
  int32_t height;                /* pixels; 0: the size the model was trained at */
  int32_t width;                 /* likewise */
  int32_t num_inference_steps;   /* 1 to 1000, or LDM_ENGINE_AUTO_STEPS */
  int32_t reserved;              /* 0 */
  const double* guidance_scales; /* default: 1, which is off */
  size_t guidance_scale_count;
  const double* etas; /* default: 0 */
  size_t eta_count;
  const int64_t* seeds; /* one s means s, s + 1, ...; default: at random */
  size_t seed_count;
  const char* const* negative_prompts; /* default: "" */
  size_t negative_prompt_count;
  const float* latents;                 /* [B, C, h, w] in place of the seeds' first draw */
  size_t latents_count;                 /* 0: none */
  ldm_engine_step_callback on_step_end; /* or NULL */
  void* user_data;                      /* handed to on_step_end */
  const char* solver;                   /* default: "ddim" */
  const int32_t* timesteps; /* descending, one a step; default: as the solver spaces them */
  size_t timestep_count;
  const char* solver_table; /* of a fitted solver, as recipes name it; default: the bundle's */
  const ldm_engine_image* pictures; /* to start from, of the size to render; default: none */
  size_t picture_count;
  const ldm_engine_image* masks; /* of these: white is painted anew; default: none */
  size_t mask_count;
  double strength; /* above 0 to 1, how much is painted anew; 0: 0.8, and 1 with masks */
} ldm_engine_request;

/* Facts about an opened bundle. The texts live as long as the pipeline does. `latents` of B images
 * of height H and width W have B * latent_channels * (H / scale_factor) * (W / scale_factor)
 * values. */
typedef struct ldm_engine_info {
  size_t size;         /* of this struct, as the caller knows it */
  const char* source;  /* the checkpoint's id or folder name */
  const char* digest;  /* one hash over all files that make the pixels */
  const char* runtime; /* in use, as the next three are */
  const char* precision;
  const char* memory; /* "resident" or "sequential" */
  int32_t threads;
  int32_t default_size;   /* height and width by default, in pixels */
  int32_t pixel_multiple; /* height and width are multiples of this */
  int32_t token_length;   /* tokens a prompt */
  int32_t latent_channels;
  int32_t scale_factor; /* pixels a latent cell spans in each direction */
} ldm_engine_info;

/* How long the parts of a call took, in milliseconds. */
typedef struct ldm_engine_timings {
  size_t size; /* of this struct, as the caller knows it */
  double text_ms;
  double time_ms;
  double denoise_ms;
  double decode_ms;
  double total_ms;
} ldm_engine_timings;

/* The version of the library, and the newest interface that it knows. */
LDM_ENGINE_API const char* ldm_engine_version(void);
LDM_ENGINE_API int32_t ldm_engine_abi_version(void);

/* The text of this thread's latest failure; valid until its next one. */
LDM_ENGINE_API const char* ldm_engine_last_error(void);

/* Fill a struct with the defaults; `size` is its sizeof. Do this first. */
LDM_ENGINE_API int32_t ldm_engine_options_init(ldm_engine_options* options, size_t size);
LDM_ENGINE_API int32_t ldm_engine_request_init(ldm_engine_request* request, size_t size);

/* Open the bundle folder `path`; `options` may be NULL. */
LDM_ENGINE_API int32_t ldm_engine_open(const char* path, const ldm_engine_options* options,
                                       ldm_engine_pipeline** out);
LDM_ENGINE_API int32_t ldm_engine_clone(const ldm_engine_pipeline* pipeline,
                                        ldm_engine_pipeline** out);
/* Set `out->size` first. */
LDM_ENGINE_API int32_t ldm_engine_pipeline_info(const ldm_engine_pipeline* pipeline,
                                                ldm_engine_info* out);
LDM_ENGINE_API void ldm_engine_close(ldm_engine_pipeline* pipeline);

/* Render one image a prompt; `request` may be NULL. */
LDM_ENGINE_API int32_t ldm_engine_generate(ldm_engine_pipeline* pipeline,
                                           const char* const* prompts, size_t prompt_count,
                                           const ldm_engine_request* request,
                                           ldm_engine_result** out);
LDM_ENGINE_API void ldm_engine_result_free(ldm_engine_result* result);

LDM_ENGINE_API size_t ldm_engine_result_image_count(const ldm_engine_result* result);
LDM_ENGINE_API int32_t ldm_engine_result_image(const ldm_engine_result* result, size_t index,
                                               ldm_engine_image* out);
LDM_ENGINE_API int32_t ldm_engine_result_seed(const ldm_engine_result* result, size_t index,
                                              uint32_t* out);
LDM_ENGINE_API int32_t ldm_engine_result_steps_run(const ldm_engine_result* result);
/* Set `out->size` first. */
LDM_ENGINE_API int32_t ldm_engine_result_timings(const ldm_engine_result* result,
                                                 ldm_engine_timings* out);
LDM_ENGINE_API size_t ldm_engine_result_warning_count(const ldm_engine_result* result);
/* NULL if there is no warning of that index. */
LDM_ENGINE_API const char* ldm_engine_result_warning(const ldm_engine_result* result, size_t index);
/* Write an image as a PNG file, replacing what has that name. */
LDM_ENGINE_API int32_t ldm_engine_result_save_png(const ldm_engine_result* result, size_t index,
                                                  const char* path);

#ifdef __cplusplus
}
#endif

#endif
