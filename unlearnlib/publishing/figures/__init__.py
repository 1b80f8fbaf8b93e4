"""Every figure of the book: tidy data in, matplotlib axes or figures out. Nothing here computes a result."""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # the look: one colour and marker a method, on every page
        "appearance": "COLOURS TABLE POINTS WIDTH style colour look panels series",
        # charts of several chapters
        "charts": "budget curves densities density_panels intervals noise_floor null_panels scatter_tradeoff verdicts",
        "pictures": "boundaries boundary design_matrix feature_planes gallery heat_maps matrices regions",
        # those of one theme
        "exact": "break_even deletion_trees queue_costs random_layers recovered shard_attack shard_grids sharding",
        "curvature": "damping depth_correlation error_growth influence_plane law_and_refits noise_doses "
        "residual_curves",
        "doses": "cost_gap dial_grid dose_error equal_forgetting ratio_cap responses two_known_answers",
        "privacy": "clipping exposure groups noise_against_steps noise_clouds privacy_accuracy privacy_definition "
        "sandwich spending",
        "faces": "collapse_traces entanglement",
        "repairs": "pruned_gaps repaired transfer",
        "attribution": "klom_over_cost margin_changes margin_paths score_over_models",
        "language": "forgetting_paths ratio_histograms",
        "federated": "forgetting_costs washing_out",
        "samplers": "crowds_over_pictures forget_rates plane_samples",
        "papers": "published_in_intervals",
        "desk": "budget_spent year year_ends",
        "scoreboards": "distance_over_cost duels",
    },
)
