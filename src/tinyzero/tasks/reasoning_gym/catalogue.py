"""What is known about each dataset of reasoning-gym: how it is graded, and why some are rejected.

A test compares these lists with the installed package. A dataset that is in none of them has not
been checked, so it cannot be named.
"""

from __future__ import annotations

_EXACT = """
    acre aiw arc_1d base_conversion basic_arithmetic bf binary_alternation caesar_cipher
    count_bits count_primes course_schedule gcd isomorphic_strings largest_island lcm
    leg_counting letter_counting list_functions mahjong_puzzle maze modulo_grid number_filtering
    number_sequence ransom_note rotate_matrix rotten_oranges simple_equations simple_geometry
    string_manipulation string_splitting string_synthesis syllogism word_sequence_reversal
"""
EXACT = frozenset(_EXACT.split())
"""Datasets with one right text: the package compares texts too."""

_OWN = """
    binary_matrix bitwise_arithmetic complex_arithmetic countdown game_of_life_halting
    gsm_symbolic kakurasu knights_knaves letter_jumble n_queens number_sorting
    polynomial_multiplication prime_factorization puzzle24 quantum_lock spiral_matrix
    string_insertion survo
"""
OWN = frozenset(_OWN.split())
"""Datasets that TinyZero grades itself: the package's scorer can be fooled, or runs the text."""

_THEIRS = """
    ab advanced_geometry arc_agi boxnet calendar_arithmetic chain_sum circuit_logic codeio
    coin_flip color_cube_rotation cryptarithm decimal_arithmetic decimal_chain_sum dice
    emoji_mystery family_relationships figlet_font fraction_simplification futoshiki
    game_of_life graph_color group_anagrams jugs knight_swap manipulate_matrix mini_sudoku
    needle_haystack number_format palindrome_generation palindrome_partitioning path_star
    polynomial_equations pool_matrix power_function products propositional_logic rearc
    rectangle_count rubiks_cube rush_hour self_reference sentence_reordering shortest_path
    sokoban spell_backward sudoku time_intervals tower_of_hanoi tsumego word_ladder word_sorting
    zebra_puzzles
"""
THEIRS = frozenset(_THEIRS.split())
"""Datasets that the package's own scorer grades, in a guarded process."""

REJECTED = {
    "composite": "name several datasets instead",
    "intermediate_integration": "its scorer runs the answer as code",
    "simple_integration": "its scorer runs the answer as code",
}
"""Datasets that cannot be trained on, with the reason."""

DATASETS = sorted(EXACT | OWN | THEIRS)
"""The names of all datasets that can be trained on."""

GIVEN = {
    "countdown": ("numbers", "target"),
    "kakurasu": ("row_sums", "col_sums"),
    "n_queens": ("puzzle",),
    "puzzle24": ("numbers",),
    "quantum_lock": ("initial_value", "initial_state", "target_value", "buttons"),
}
"""What our own graders need to know besides the package's answer, as it is called there."""

_NUMBER = r"-?[0-9./]+"
FORMS = {
    "advanced_geometry": rf"{_NUMBER}°?|\({_NUMBER}, ?{_NUMBER}\)",
    "sokoban": "[LRUD]+",
}
"""Regular expressions that an answer must match, if the package's scorer ignores junk."""

WITHOUT_LEVELS = frozenset(("acre", "gsm_symbolic", "list_functions"))
"""Datasets without a curriculum."""

HIGHEST_LEVEL = {"caesar_cipher": 1, "jugs": 2, "modulo_grid": 0, "rubiks_cube": 3, "survo": 1}
"""The highest level that works, of datasets whose curricula go too far: with 0.1.25, the levels
above it are rejected by the dataset itself, or (jugs) take more than a minute per problem."""

REUSED = frozenset(("arc_agi", "codeio", "figlet_font", "group_anagrams", "spell_backward"))
"""Datasets that take long to make: one of them makes all problems, each from its own index."""

FIRST_SEED = 0
"""The seed of the datasets in REUSED."""
