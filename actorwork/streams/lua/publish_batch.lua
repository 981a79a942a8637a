-- Keeps messages of one source that `publish_now` and `publish_later` do not take; returns how many were new.
--
-- KEYS  the source, its `delayed`, its `delayed:messages`, then the marks
-- ARGV  the prefix of the source's keys, then the messages (`keep_all` in publish.lua)

local new, problem = keep_all(ARGV[1], 2)
if problem then
  return redis.error_reply(problem) -- Those before it are kept: their marks say so when the batch is sent again.
end
return new
