%% The same cases on Erlang/OTP. A call has a timeout of 5 s unless it says otherwise; the log is off.
-module(bench).
-export([main/1]).

emit(Case, N, Us) ->
    io:format("{\"library\": \"Erlang/OTP\", \"case\": \"~s\", \"n\": ~p, \"seconds\": ~.6f, \"per_s\": ~.1f}~n",
              [Case, N, Us / 1.0e6, N / (Us / 1.0e6)]).

timed(F) -> {Us, _} = timer:tc(F), max(Us, 1).

times(_, 0) -> ok;
times(F, N) -> F(), times(F, N - 1).

main("tell") ->
    N = 1000000,
    {ok, P} = srv:start_link(),
    emit("tell", N, timed(fun() ->
        times(fun() -> gen_server:cast(P, {ping, 1}) end, N),
        N = gen_server:call(P, get, 60000)
    end));
main("ask_timeout") ->
    N = 200000,
    {ok, P} = srv:start_link(),
    emit("ask_timeout", N, timed(fun() -> times(fun() -> gen_server:call(P, get) end, N) end));
main("spawn_stop") ->
    N = 50000,
    {ok, _} = dynsup:start_link(),
    emit("spawn_stop", N, timed(fun() ->
        times(fun() ->
            {ok, P} = supervisor:start_child(dynsup, []),
            ok = supervisor:terminate_child(dynsup, P)
        end, N)
    end));
main("restart") ->
    N = 5000,
    logger:set_primary_config(level, none),
    {ok, S} = dynsup:start_link(),
    {ok, P} = supervisor:start_child(dynsup, []),
    emit("restart", N, timed(fun() -> kill(S, P, N) end));
main("memory") ->
    N = 10000,
    erlang:garbage_collect(),
    Before = erlang:memory(total),
    Ps = [begin {ok, P} = srv:start_link(), P end || _ <- lists:seq(1, N)],
    timer:sleep(100),
    After = erlang:memory(total),
    N = length(Ps),
    io:format("{\"library\": \"Erlang/OTP\", \"case\": \"memory\", \"n\": ~p, \"bytes_each\": ~.1f}~n",
              [N, (After - Before) / N]).

kill(_, _, 0) -> ok;
kill(S, P, N) ->
    R = monitor(process, P),
    exit(P, kill),
    receive {'DOWN', R, _, _, _} -> ok end,
    [{_, Next, _, _}] = supervisor:which_children(S),
    kill(S, Next, N - 1).
