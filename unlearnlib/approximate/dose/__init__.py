"""Dose control: what keeps forgetting from going too far, as parts that any method made of batches can take on board.

    ul.unlearn("neggrad", model, split, seed=0, parts=(dose.L2SP(0.1), dose.EarlyStop()))

All are instances of one problem, with theta_0 the start of the descent, L_R and L_F the losses of the two sets:

    min_theta  (1 - beta) L_R - beta phi(L_F) + rho Omega(theta, theta_0)   subject to |F| / |D| <= kappa, stop at tau

beta, the weight of forgetting, is 1 - alpha of `neggrad_plus`. What each part promises, at every moment and of the
model that is returned, and what it costs where an example that goes forward costs 1, forward and backward 3:

    part                 promises                                                    costs
    RatioCap             |F| / |D| <= kappa, or retraining                           nothing, or retraining
    BoundedLoss          what is climbed counts as min(L_F, tau)                     nothing
    L2SP                 the loss has (rho / 2) ||theta - theta_0||^2                nothing
    EWC                  the loss has rho sum_i F_i (theta_i - theta_0,i)^2          3 R once; nothing if F is given
    SaliencyMask         weights outside the mask are bit-identical to theta_0's     3 F once
    BallProjection       ||theta - theta_0|| <= radius                               nothing
    GradientProjection   a step of size eta changes the retain loss by O(eta^2)      3 batch_size a step; 4 per_example
    KLTrustRegion        E_R KL(p_theta_0 || p_theta) <= delta                       R once, and a step R +
                                                                                     (4 + 5 iterations) batch_size
    EarlyStop            no step follows the first L_F >= the validation loss        V once, F every `every` steps

R, F, V are the sizes of the retain, forget and validation sets. The trust region is measured over all of R after every
step, again where a step has to be shortened, and twice more in the precision of the model that is returned. There the
mask, the ball and the trust region hold as well; the O(eta^2) of a projection is up to the rounding of that precision.

All parts compose, in any order and with every method that takes `parts`, the same one twice included: of two bounds
of a kind the tighter one holds, two pulls add up, the first stop stops. What would break is refused by what it needs:

    a mask, a ball, a trust region    with methods that change weights before their first step (eu_k, amnesiac)
    EarlyStop                         for whole classes, and so with methods that are for them

The four bounds on weights and steps are held together by one part, whose rule is in `bounds`. They also keep the
running statistics of norms, which would otherwise change the function at rate 0: norms then use them in training too.
The other parts change the loss or end the descent: what a bound takes out of a gradient, it takes out of a pull or of a
method's own repair as well, and pulls have their closed forms without one. Of theta_0: pulls go to the start of the
descent, which for eu_k and amnesiac is not the model that was given. Gradients that parts take are those of eval mode.
"""

from unlearnlib import _faces

__getattr__, __dir__, __all__ = _faces.face(
    __name__,
    {
        # what is descended on
        "losses": "BoundedLoss EWC L2SP",
        # where weights may be and steps may go
        "limits": "BallProjection GradientProjection KLTrustRegion SaliencyMask",
        # when to stop, or not to begin
        "stops": "EarlyStop RatioCap",
    },
)
