"""Command lines that ask for what cannot be done: refused in a line that names the argument, and nothing is written."""

import importlib

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write

from tests.experiments.forces.test_frames import labelled
from utils.cli import UsageError

FEW = "--num_train 2 --num_valid 1 --num_test 1"
HOMO = "--task homo --num_layers 1 --num_channels 4"
NO_FILE = "nowhere/no.npz"
# (program, argument that the error names, words); DATA and MOLECULES are files of structures, HERE one that is no data.
WRONG = [
    # What no experiment takes.
    ("nbody.run", "layers", "--layers 3"),
    ("nbody.run", "num_layer", "--num_layer 3"),
    ("nbody.run", "num_layers", "--num_layers 0"),
    ("nbody.run", "head", "--head 0"),
    ("nbody.run", "xij", "--xij sub"),
    ("nbody.run", "model", "--model GCN"),
    ("nbody.run", "preset", "--preset huge"),
    ("nbody.run", "lr", "--lr -1"),
    ("nbody.run", "lr", "--lr nan"),
    ("nbody.run", "lr_final", "--lr_final 1"),
    ("nbody.run", "ema", "--ema 1"),
    ("nbody.run", "weight_decay", "--weight_decay -1"),
    ("nbody.run", "warmup", "--warmup -1"),
    ("nbody.run", "seed", f"--seed {2**40}"),
    ("nbody.run", "num_workers", "--num_workers 257"),
    ("nbody.run", "precision", "--precision 16"),
    ("nbody.run", "name", "--name a/b"),
    ("nbody.run", "resume", "--resume nowhere"),
    ("nbody.run", "device", "--device tpu"),
    ("nbody.run", "cuda_graphs", f"{FEW} --cuda_graphs --device cpu"),
    ("nbody.run", "restore", f"{FEW} --restore {NO_FILE}"),
    ("nbody.run", "forward", f"{FEW} --forward"),
    # Its own.
    ("nbody.run", "n_balls", "--n_balls 1"),
    ("nbody.run", "ri_delta_t", f"{FEW} --ri_delta_t 51"),
    ("nbody.run", "ri_delta_t", f"{FEW} --ri_burn_in 46"),
    ("nbody.run", "sample_freq", f"{FEW} --sample_freq 300"),
    ("nbody.run", "ri_data", "--ri_data nowhere"),
    ("nbody.run", "data", f"{FEW} --data HERE"),
    ("nbody.run", "evaluate", f"{FEW} --evaluate {NO_FILE}"),
    ("nbody.run", "div", f"{FEW} --div 16"),
    ("nbody.run", "stream", f"{FEW} --stream egnn"),
    ("nbody.run", "data_str", "--data_str mine"),
    ("nbody.run", "evaluate_delta_t", "--evaluate_delta_t 2"),
    ("nbody.run", "evaluate_sample_freq", "--evaluate_sample_freq 2"),
    ("nbody.run", "num_test", "--ri_data nowhere --num_test 9"),
    ("nbody.run", "n_balls", "--ri_data nowhere --data_str mine --n_balls 3"),
    ("nbody.run", "ri_data_type", "--ri_data nowhere --data_str mine --ri_data_type springs"),
    ("nbody.run", "data", "--ri_data nowhere --data somewhere"),
    ("nbody.run", "stream", "--ri_data nowhere --stream egnn"),
    ("nbody.run", "num_steps", "--num_steps 2"),
    ("nbody.run", "head", "--model SE3Integrator --head 2"),
    ("nbody.run", "xij", "--model TFN --xij cat"),
    ("nbody.generate_dataset", "n-balls", "--n-balls 0"),
    ("nbody.generate_dataset", "num-test", "--num-test 0"),
    ("nbody.generate_dataset", "seed", "--seed -1"),
    ("nbody.generate_dataset", "length", "--length 0"),
    ("nbody.generate_dataset", "length-test", "--length-test 0"),
    ("nbody.generate_dataset", "sample-freq", "--length 20 --sample-freq 10 --length-test 25"),
    ("nbody.generate_dataset", "boxsize", "--boxsize -1"),
    ("nbody.generate_dataset", "name", "--name a/b"),
    ("nbody.generate_dataset", "num-trains", "--num-trains 3"),
    ("nbody.generate_dataset", "num", "--num 3"),
    ("nbody.generate_dataset", "simulation", "--simulation gravity"),
    ("toy_optimisation.run", "n_points", "--n_points 1"),
    ("toy_optimisation.run", "gd_tolerance", "--gd_tolerance 0"),
    ("toy_optimisation.run", "k_neighbors", "--k_neighbors 0"),
    ("toy_optimisation.run", "num_degrees", "--num_degrees 1"),
    ("toy_optimisation.run", "epoch_size", "--epoch_length 0"),
    ("toy_optimisation.run", "div", "--div 8"),
    ("toy_optimisation.run", "log_steps", "--num_iter 1 --log_steps"),
    ("chirality.run", "num_channels", "--num_channels 1"),
    ("chirality.run", "molecules", f"--molecules {NO_FILE}"),
    ("chirality.run", "num_molecules", "--num_molecules 1"),
    ("chirality.run", "cuda_graphs", "--cuda_graphs"),
    ("chirality.run", "conformers", f"--molecules {NO_FILE} --conformers 2"),
    ("scanobjectnn.run", "div", f"{FEW} --div 16"),
    ("scanobjectnn.run", "up", "--up z"),
    ("scanobjectnn.run", "up", "--data nowhere --up w"),
    ("scanobjectnn.run", "data", "--data nowhere"),
    ("scanobjectnn.run", "num_train", "--data nowhere --num_train 9"),
    ("scanobjectnn.run", "head", "--model TFN --head 2"),
    ("scanobjectnn.run", "height", "--model PointNet --no-height"),
    ("scanobjectnn.run", "rotations", "--rotations x"),
    ("forces.run", "precision", "--precision bf16-mixed"),
    ("forces.run", "head", f"{FEW} --div 1 --head 3"),
    ("forces.run", "graph", "--graph own"),
    ("forces.run", "cuda_graphs", "--cuda_graphs"),
    ("forces.run", "atoms", "--atoms 1"),
    ("forces.run", "data", f"--data {NO_FILE}"),
    ("forces.run", "data", "--data none"),
    ("forces.run", "precision", "--data DATA --precision bf16-mixed"),
    ("forces.run", "channels", "--data DATA --channels 4,1"),
    ("forces.run", "channels", "--data DATA --channels 4;8"),
    ("forces.run", "graph", "--data DATA --graph own"),
    ("forces.run", "cuda_graphs", "--data DATA --cuda_graphs"),
    ("forces.run", "div", "--data DATA --num_layers 0 --div 2"),
    ("forces.run", "atoms", "--data DATA --atoms 5"),
    ("forces.trajectory", "data", "--num_epochs 1"),
    ("forces.trajectory", "data", f"--data {NO_FILE}"),
    ("forces.trajectory", "data", "--data DATA"),  # of two molecules
    ("forces.trajectory", "precision", "--data DATA --precision bf16-mixed"),
    ("forces.trajectory", "graph", "--data DATA --graph own"),
    ("forces.trajectory", "cuda_graphs", "--data DATA --cuda_graphs"),
    ("forces.trajectory", "max_degree_sent", "--data MOLECULES --num_valid 1 --max_degree 1 --max_degree_sent 2"),
    ("forces.trajectory", "num_valid", "--data MOLECULES --num_valid 2"),
    ("forces.dynamics", "timestep", "a.pt b.xyz --timestep 0"),
    ("forces.dynamics", "pressure", "a.pt b.xyz --pressure nan"),
    ("forces.dynamics", "pressure", "a.pt b.xyz --pressure 5"),
    ("forces.dynamics", "device", "a.pt b.xyz --device gpu"),
    ("forces.dynamics", "device", "a.pt b.xyz --device cuda:99"),
    ("forces.dynamics", "ensemble", "a.pt b.xyz --ensemble nvq"),
    ("forces.metals", "structures", "folder --structures 15"),
    ("qm9.run", "task", "--task cv"),
    ("qm9.run", "task", "--task colour"),
    ("qm9.run", "recipe", "--recipe huge"),
    ("qm9.run", "data_address", "--source qm9pack --data_address x"),
    ("qm9.run", "data_address", "--source embedded --data_address x"),
    ("qm9.run", "data_address", "--source arrays"),
    ("qm9.run", "data_address", f"--data_address {NO_FILE}"),
    ("qm9.run", "cache", "--cache here"),
    ("qm9.run", "div", f"{HOMO} --model TFN --div 2"),
    ("qm9.run", "per_atom", f"{HOMO} --per_atom"),
    ("qm9.run", "nonlinearity", f"{HOMO} --model SE3TransformerPooled"),
    ("qm9.run", "cutoff", f"{HOMO} --fully_connected --cutoff 2"),
    ("qm9.run", "envelope", f"{HOMO} --envelope 6"),
    ("qm9.run", "num_train", f"{HOMO} --num_train 1000000"),
    ("qm9.run", "task", "--task dipole --model TFN"),
    ("qm9.run", "pooling", "--task dipole --pooling max"),
    ("qm9.run", "num_degrees", "--task dipole --num_degrees 1"),
    ("qm9.run", "task", "--task polarizability"),
    ("qm9.run", "pooling", "--task polarizability --pooling max"),
    ("qm9.run", "per_atom", "--task polarizability --per_atom"),
    ("qm9.learning_curves", "num_layers", f"--data_address {NO_FILE} --num_layers 0"),
    ("qm9.learning_curves", "nowhere", f"--data_address {NO_FILE} --nowhere 1"),
    ("qm9.learning_curves", "jobs", "--jobs 0"),
    ("qm9.learning_curves", "sizes", "--sizes 0"),
    ("qm9.predict", "checkpoint", f"CCO --checkpoint {NO_FILE}"),
    ("qm9.eval", "split", "--checkpoint x --split some"),
    ("qm9.eval", "batch_size", "--checkpoint x --batch_size 2"),  # which is of the training
    ("toy_optimisation.collect", "depth", "folder --depth 3"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What words of the table stand for."""
    folder = tmp_path_factory.mktemp("data")
    write(folder / "data.extxyz", [labelled(bulk("Cu") * (1, 1, n)) for n in (1, 2)])
    np.save(folder / "here.npy", np.zeros(1))
    write(folder / "molecules.extxyz", [labelled(molecule("H2O"))] * 2)
    return {
        "DATA": str(folder / "data.extxyz"),
        "MOLECULES": str(folder / "molecules.extxyz"),
        "HERE": str(folder / "here.npy"),
    }


NAMED = r"^(unrecognized arguments: |the following arguments are required: )?--{}\b[^\n]*$"


@pytest.mark.parametrize(("program", "argument", "words"), WRONG)
def test_is_refused(places, tmp_path, monkeypatch, program, argument, words):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"experiments.{program}")
    given = [places.get(word, word) for word in words.split()]
    if program in ("nbody.run", "chirality.run") and not {"--data", "--ri_data"} & {*given}:
        given += ["--data", "cached"]
    if not {"--resume", "--name"} & {*given} and program != "forces.metals":
        given += ["--output", "out"]
    with pytest.raises(UsageError, match=NAMED.format(argument)):
        module.main(given)
    assert not [*(tmp_path / "out").rglob("*")]
